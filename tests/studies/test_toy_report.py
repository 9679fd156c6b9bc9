"""The report on toy diffusion: verdicts follow the numbers, figures what they show."""

import jax
import numpy as np
import pytest

from ncgn_jax.pictures import save_figure
from ncgn_jax.pictures.vector_fields import (
    FieldPanel,
    draw_sample_panels,
    draw_vector_fields,
)
from ncgn_jax.studies.report import Report
from ncgn_jax.studies.toy_diffusion import (
    learning,
    networks,
    pairing,
    samples,
    sampling,
    study,
    sweep,
)
from tests.studies.toy_world import COSINE, LINEAR, MIXTURE, make_lesson

pytestmark = [pytest.mark.usefixtures("compile_quickly"), pytest.mark.thorough]


@pytest.fixture
def report(tmp_path):
    return Report("toy_diffusion", tmp_path, quick=True)


def verdicts(report):
    return [finding.verdict for finding in report.findings]


def test_exact_parts_fill_the_report(report):
    study.study_signal(report)
    sampling.study_widths(report)
    assert verdicts(report) == ["holds"] * 4
    rows = {row[0]: row[1:] for row in report.tables["signal"].rows}
    assert rows["1000, cosine"][0] == 0.065
    lengths = [row[0] for row in report.tables["widths"].rows]
    assert lengths == ["20", "50", "100", "1000"]
    assert (report.workdir / report.figures["signal"]).stat().st_size > 5000


def test_the_transport_map_is_reported(report):
    lesson = make_lesson()
    pairing.study_transport_map(report, lesson)
    assert verdicts(report) == ["holds", "holds"]
    rows = {row[0]: row[1:] for row in report.tables["invertible"].rows}
    assert rows["0, linear"] == [1.0, 0.0, 0.0]
    assert 0 < rows["10, linear"][0] < 1e-3


def fake(distance, width=1.0, share=0.7):
    return samples.Measures(distance, share, 0.0, width, 0.0, 0.5, 0.0)


def fake_runs(worse_noise):
    measures = {}
    for name in (LINEAR, COSINE):
        for target, method, limit in learning._RUNS:
            value = 0.3 if name == LINEAR else 0.2
            if name == COSINE and target != "data" and limit is None:
                value = worse_noise
            key = (name, target, method, limit is not None)
            measures[key] = [fake(value, 0.1 if target == "step" else 1.0)] * 2
    return measures


@pytest.mark.parametrize(
    ("worse_noise", "expected"),
    [
        (0.5, ["holds", "does not hold", "holds", "holds", "does not hold"]),
        (0.1, ["holds", "holds", "does not hold", "holds", "holds in part"]),
    ],
)
def test_verdicts_on_networks_come_from_the_numbers(report, worse_noise, expected):
    lesson = make_lesson()
    learning._report_samples(report, lesson, fake_runs(worse_noise))
    assert verdicts(report) == expected
    assert len(report.tables["networks"].rows) == len(learning._RUNS)


def test_what_networks_learn_comes_from_the_numbers(report):
    lesson = make_lesson()
    small = {
        (n, t): np.full(2, 0.01) for n in (LINEAR, COSINE) for t in networks.TARGETS
    }
    learning._report_losses(report, lesson, small)
    large = {key: value + 0.5 for key, value in small.items()}
    other = Report("again", report.workdir)
    learning._report_losses(other, lesson, large)
    assert verdicts(report) == ["holds"]
    assert verdicts(other) == ["does not hold"]


def test_pairings_are_compared(report):
    lesson = make_lesson()
    pairing.study_pairings(report, lesson)
    rows = {row[0]: row[1:] for row in report.tables["pairings"].rows}
    assert len(rows) == 7
    assert rows["exact inverse"][-1] < 1e-9
    assert verdicts(report)[0] == "holds"
    for name in (LINEAR, COSINE):
        fresh, frozen, transport = (
            rows[f"{kind}, {name}"]
            for kind in (pairing.FRESH, pairing.FROZEN, pairing.TRANSPORT)
        )
        assert transport[0] < 0.5 * min(fresh[0], frozen[0])
        # Random noise does not depend on the data: the mean is the best guess at n = T.
        assert fresh[-1] > 1.2 > transport[-1]


@pytest.mark.parametrize(
    ("transport", "frozen", "expected"),
    [
        ([0.01, 0.1, 1, 0, 0.1, 0.05], 0.95, ["holds", "holds", "does not hold"]),
        ([0.01, 0.1, 1, 0, 0.1, 0.30], 0.50, ["holds", "holds in part", "holds"]),
        (
            [0.90, 0.9, 1, 0, 0.1, 0.90],
            0.95,
            ["holds", "does not hold", "does not hold"],
        ),
    ],
)
def test_verdicts_on_pairings_come_from_the_numbers(
    report, transport, frozen, expected
):
    fresh = [1.0, 1.0, 0.1, 0.0, 0.3, 1.7]
    rows = {}
    for name in (LINEAR, COSINE):
        rows[pairing.FRESH, name] = fresh
        rows[pairing.FROZEN, name] = [frozen, *fresh[1:]]
        rows[pairing.TRANSPORT, name] = transport
    of_map = [0.0, 0.01, 1.0, 0.0, 0.01, 1e-13]
    pairing._judge_pairings(report, rows, of_map)
    assert verdicts(report) == expected


def test_sweeps_come_from_the_numbers(report, monkeypatch):
    calls = []

    def sample(mixture, schedule, method, *rest):
        calls.append((len(mixture.weights), mixture.means.shape[1], method))
        is_cosine = schedule.name != "ddpm_linear"
        width = (
            0.01 if method == "single step" else 0.7 if method == "whole step" else 0.95
        )
        return fake(0.1 + 0.1 * is_cosine, width + 0.03 * is_cosine), None

    monkeypatch.setattr(sweep, "sample_exactly", sample)
    sweep.study_cosines(report, 10, jax.random.key(0))
    # Only an offset of .3 loses against linear betas.
    assert verdicts(report) == ["holds in part"]
    assert len(calls) == len(report.tables["cosines"].rows) == 12
    sweep.study_worlds(report, 10, jax.random.key(0), few=False)
    assert verdicts(report)[1:] == ["holds", "holds", "holds", "does not hold"]
    assert {call[:2] for call in calls} == {(2, 2), (2, 8), (2, 32), (8, 2), (25, 2)}


def test_fields_are_drawn_where_they_point(tmp_path):
    schedule = samples.make_toy_schedule(COSINE, 100)
    pull, score = study.field_panels(schedule, 0.5)
    half = len(pull.places) // 2
    # On the axis at the far right the pull is to the left, and so is the score.
    assert pull.arrows[half, -1, 0] < -1
    assert score.arrows[half, -1, 0] < 0
    # The density is highest near alpha times the heavier mean.
    row, column = np.unravel_index(score.log_density.argmax(), score.log_density.shape)
    peak = score.fine_places[[column, row]]
    alpha = float(schedule.alpha(0.5))
    np.testing.assert_allclose(peak, alpha * MIXTURE.means[0], atol=0.1)
    figure = draw_vector_fields({"a": [pull, score]})
    assert save_figure(figure, tmp_path / "f.png", dpi=40).stat().st_size > 3000


def test_clouds_of_samples_are_drawn(tmp_path):
    points = np.concatenate([np.zeros((9, 2)), np.full((1, 2), 50.0)])
    figure = draw_sample_panels({"row": {"left": points, "right": points[:9]}}, 3.0)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["10 % outside"]
    assert save_figure(figure, tmp_path / "s.png", dpi=40).stat().st_size > 1000


@pytest.mark.parametrize("rows", [{}, {"a": []}, {"a": [1], "b": []}])
def test_uneven_rows_of_pictures_are_refused(rows):
    with pytest.raises(ValueError, match="equally many panels"):
        draw_vector_fields(rows)


def test_field_panels_name_their_longest_arrow():
    places = np.array([0.0, 1.0])
    arrows = np.zeros((2, 2, 2))
    arrows[0, 1] = [3.0, 4.0]
    panel = FieldPanel("here", places, arrows, places, np.zeros((2, 2)) - places)
    figure = draw_vector_fields({"a": [panel]})
    assert figure.axes[0].get_title(loc="left") == "here, longest 5"
