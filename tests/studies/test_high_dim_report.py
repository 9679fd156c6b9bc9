"""The report on schedules in high dimension: its verdicts follow the numbers."""

import json
import math

import pytest

from ncgn_jax.studies.high_dim_schedules import curie_weiss_tables as spins_study
from ncgn_jax.studies.high_dim_schedules import gaussian_mixture_reduction as reduction
from ncgn_jax.studies.high_dim_schedules import limits
from ncgn_jax.studies.high_dim_schedules import study as command
from ncgn_jax.studies.report import Report

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture
def report(tmp_path):
    return Report("high_dim_schedules", tmp_path, quick=True)


def test_the_mixture_part_of_the_report(report):
    command.add_recovery(report, [64, 4096, 10**6])
    command.add_sampled(report, {64: 60})
    assert [f.verdict for f in report.findings] == ["holds", "holds in part", "holds"]
    report.write(0.0)
    results = json.loads((report.workdir / "results.json").read_text())
    assert results["figures"] == {"recovery": "recovery.png"}
    assert len(results["tables"]["recovery"]["rows"]) == 6


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, "holds"),
        ({"VP": (0.85, 0.95)}, "holds in part"),
        ({"VP": (1.0, 0.8)}, "holds in part"),
        ({"VE": (0.83, 0.01)}, "holds in part"),
        ({"VE": (0.8, 0.6)}, "holds in part"),
        ({"VP": (0.85, 0.8), "VE": (0.9, 0.9)}, "does not hold"),
    ],
)
def test_each_part_of_the_claim_about_equal_steps_counts(
    changed, verdict, report, monkeypatch
):
    found = {"VP": (1.0, 0.95), "VE": (0.8, 0.01), **changed}
    monkeypatch.setattr(command, "recovered", lambda way, *_: found[way.name[:2]])
    command.add_recovery(report, [64, 4096])
    assert report.findings[0].verdict == verdict


def steps_as_claimed(way, dim):
    count = 3 * math.isqrt(int(dim)) if way.grid == "constant" else 100
    return reduction.StepsNeeded(8, count, count)


def steps_that_all_grow(way, dim):
    count = int(dim) if dim < 10**5 else None
    return reduction.StepsNeeded(8, count, count)


@pytest.mark.parametrize(
    ("steps_of", "verdicts", "exponent"),
    [
        (steps_as_claimed, ["holds", "holds"], 0.5),
        (steps_that_all_grow, ["does not hold", "does not hold"], 1.0),
    ],
)
def test_the_steps_part_of_the_report(
    steps_of, verdicts, exponent, report, monkeypatch
):
    monkeypatch.setattr(command, "_steps_of", steps_of)
    command.add_steps(report, [64, 1024, 4096, 2**20])
    assert [finding.verdict for finding in report.findings] == verdicts
    rows = report.tables["exponents"].rows
    assert rows[0][0] == "VP, equal steps"
    assert rows[0][1] == pytest.approx(exponent)
    last = report.tables["steps_both"].rows[3]
    assert last[1] == (3072 if steps_of is steps_as_claimed else "> 8192")


def test_the_limits_part_of_the_report(report):
    limits.add_windows(report, (3.0, 5.0))
    limits.add_asymmetry(report, (64, 10**8))
    limits.add_curved_noise(report, (1024, 4096), num_steps=40)
    assert [f.verdict for f in report.findings] == ["holds in part"] * 3


GOOD, BAD = spins_study.Spins(0.79, 1.0, 0.958), spins_study.Spins(1.0, 0.9, 1.0)
LIMITS = {"VP": BAD._replace(square=1.0), "VE": BAD._replace(share=0.79)}


def sample_as_claimed(way, dim, num_steps, num_samples, rng, is_exact=False):
    """Equal steps recover one feature unless there are 3 sqrt(d) of them."""
    if way.grid != "constant" or num_steps >= 3 * math.sqrt(dim):
        return GOOD
    return LIMITS[way.name[:2]]


def sample_without_gain(way, dim, num_steps, num_samples, rng, is_exact=False):
    """Dilated steps are no better than equal ones."""
    way = way._replace(grid="constant")
    return sample_as_claimed(way, dim, num_steps, num_samples, rng)


def sample_badly(*args):
    return BAD


@pytest.mark.parametrize(
    ("sample", "verdicts"),
    [
        (sample_as_claimed, ["holds", "holds"]),
        (sample_without_gain, ["holds in part", "holds in part"]),
        (sample_badly, ["holds in part", "does not hold"]),
    ],
)
def test_the_curie_weiss_part_of_the_report(sample, verdicts, report, monkeypatch):
    monkeypatch.setattr(spins_study, "sample_spins", sample)
    spins_study.add_spins(report, [(4096, 20), (4096, 200)], 3.0, 40, exact_dim=8)
    ladder = (24, 48, 96, 192)
    spins_study.add_spin_steps(report, (64, 256, 1024), 3.0, ladder, 40)
    assert len(report.tables["curie_weiss"].rows) == 8
    assert len(report.tables["curie_weiss_exact"].rows) == 8
    assert [finding.verdict for finding in report.findings] == verdicts
    if sample is sample_as_claimed:
        rows = report.tables["curie_weiss_steps"].rows
        assert rows[0] == [64, 24, 24, 24, 24]
        assert rows[2] == [1024, 96, 96, 24, 24]
