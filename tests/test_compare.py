"""Comparisons: variants, budgets, resuming, failures, summaries."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ncgn_jax.compare
import ncgn_jax.comparison.variants
from ncgn_jax.compare import compare, main, plan_runs
from ncgn_jax.comparison.speed import time_sampling, time_training_steps
from ncgn_jax.comparison.variants import make_variants, parse_variants, training_fields
from ncgn_jax.config import config_to_json, load_config
from ncgn_jax.domains import DOMAINS, make_task
from ncgn_jax.faults import ConfigError, DataError
from ncgn_jax.metrics.summary import format_summary, summarise
from ncgn_jax.point_clouds.columns import POINT_CLOUD_COLUMNS
from ncgn_jax.tasks import Task
from tests.line_task import CONFIG_FILE, line_config

SMOKE = str(Path(__file__).resolve().parent.parent / "configs" / "smoke.py")
# One noise bucket compiles in a quarter of the time.
TINY = [
    "dmp.connectivity=knn", "data.num_points=16", "model.width=4",
    "train.batch_size=8", "train.num_steps=3", "train.warmup_steps=1",
    "train.clip_norm=0", "sample.num_steps=2", "sample.num_samples=4",
    "evaluate.max_reference=4", "evaluate.max_emd_clouds=0",
    "evaluate.max_matched_clouds=0",
]  # fmt: skip
HOLDER = """
import sys, time
from ncgn_jax.run.lock import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""
SPEED = {"seconds_per_step": 0.25, "sampling_seconds": 2.0}


def test_everything_given_is_crossed():
    vary = ["dmp.connectivity=dmp,knn", "model.num_layers=1,8"]
    explicit = ["plain:", "batch: model.norm=batch model.width=32"]
    types = {"dmp.connectivity": str, "model.num_layers": int}
    parsed = parse_variants(vary, explicit, types)
    assert len(parsed) == 8
    assert parsed[0] == (
        "plain, dmp, num_layers=1",
        ["dmp.connectivity=dmp", "model.num_layers=1"],
    )
    assert parsed[-1][1][:2] == ["model.norm=batch", "model.width=32"]
    assert parse_variants([], []) == [("base", [])]


def test_no_variant_is_called_like_a_row_without_a_model():
    types, rows = {"process.target": str}, ("noise", "train")
    parsed = parse_variants(["process.target=velocity,noise"], [], types, rows)
    assert [name for name, _ in parsed] == ["target=velocity", "target=noise"]
    with pytest.raises(ConfigError, match="variant 'train': every table has a row"):
        make_variants(SMOKE, TINY, [], ["train: model.num_layers=2"])


def test_tuples_are_separated_by_semicolons():
    parsed = parse_variants(["dmp.table=1,2;3,4"], [])
    assert [fields for _, fields in parsed] == [["dmp.table=1,2"], ["dmp.table=3,4"]]


def test_variants_are_built_and_named():
    variants = make_variants(SMOKE, TINY, ["model.num_layers=1,2"])
    assert [v.folder for v in variants] == ["num_layers=1", "num_layers=2"]
    assert [v.config.model.num_layers for v in variants] == [1, 2]
    assert all(v.config.model.width == 4 for v in variants)


def test_averaged_weights_unless_asked_otherwise():
    assert make_variants(SMOKE)[0].config.evaluate.weights == ("ema",)
    both = make_variants(SMOKE, ["evaluate.weights=ema,raw"])
    assert both[0].config.evaluate.weights == ("ema", "raw")


def test_all_faults_of_all_variants_at_once():
    explicit = ["a: model.widht=3", "b: dmp.schedule=expp model.norm=bat"]
    with pytest.raises(ConfigError) as error:
        make_variants(SMOKE, [], [], explicit)
    for part in ("variant 'a'", "did you mean 'model.width'", "variant 'b'", "'exp'"):
        assert part in str(error.value)
    assert "model.norm" in str(error.value)


@pytest.mark.parametrize(
    ("vary", "explicit", "match"),
    [
        (["model.width"], [], "FIELD=VALUE"),
        ([], ["model.width=3"], "NAME:"),
        (["model.norm=layer,layer"], [], "share folder"),
    ],
)
def test_unreadable_variants(vary, explicit, match):
    with pytest.raises(ConfigError, match=match):
        make_variants(SMOKE, [], vary, explicit)


def test_training_fields_leave_out_what_does_not_train():
    fields = training_fields(load_config(SMOKE))
    assert fields["model.width"] == 8
    assert fields["seed"] == 0
    assert not any(name.startswith(("sample", "evaluate")) for name in fields)
    assert "train.log_every_steps" not in fields


def test_equal_time_becomes_steps(tmp_path):
    variants = make_variants(SMOKE, TINY, ["model.num_layers=1,2"])
    slow = {**SPEED, "seconds_per_step": 40.0}
    speeds = {"num_layers=1": SPEED, "num_layers=2": slow}
    runs = plan_runs(variants, tmp_path, speeds, num_seeds=2, seconds=10.1)
    assert [run.config.train.num_steps for run in runs] == [40, 1, 40, 1]
    assert [run.config.seed for run in runs] == [0, 0, 1, 1]
    runs = plan_runs(variants, tmp_path, speeds, num_seeds=1, seconds=None)
    assert [run.config.train.num_steps for run in runs] == [3, 3]


def test_equal_multiply_adds_become_steps(tmp_path):
    variants = make_variants(SMOKE, TINY, ["model.num_layers=1,2"])
    speeds = {
        "num_layers=1": SPEED | {"macs_per_step": 2e9},
        "num_layers=2": SPEED | {"macs_per_step": 5e11},
    }
    runs = plan_runs(variants, tmp_path, speeds, 2, None, tmac=1.0)
    assert [run.config.train.num_steps for run in runs] == [500, 2, 500, 2]
    with pytest.raises(ConfigError, match=r"found 0.1; .* 'num_layers=2' has 0.5"):
        plan_runs(variants, tmp_path, speeds, 1, None, tmac=0.1)
    # Which steps these are is not known before they are counted.
    (runs[0].folder).mkdir(parents=True)
    (runs[0].folder / "config.json").write_text(config_to_json(runs[0].config))
    plan_runs(variants, tmp_path, None, 1, None, tmac=1.0)
    with pytest.raises(ConfigError, match="num_steps was 500, now 1000"):
        plan_runs(variants, tmp_path, speeds, 1, None, tmac=2.0)


def test_tasks_that_count_multiply_adds_say_so():
    for task in DOMAINS.values():
        assert task.counts_macs == (task.step_macs is not Task.step_macs)
        assert task.counts_macs == (task.costs is not Task.costs)


@pytest.mark.usefixtures("line_domain")
def test_a_folder_in_use_is_refused_in_one_line(tmp_path):
    path = tmp_path / "line.py"
    path.write_text(CONFIG_FILE)
    arguments = [f"--config={path}", f"--workdir={tmp_path}", "--seeds=1"]
    folder = tmp_path / "base" / "seed0"
    held = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert held.stdout.readline() == "held\n"
        with pytest.raises(SystemExit) as error:
            main(["compare", *arguments])
    finally:
        held.kill()
        held.wait()
        held.stdout.close()
    assert str(error.value).startswith("error: ")
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_every_variant_must_fit_the_data(tmp_path):
    """The second asks for a class that the digits do not have."""
    path = str(Path(SMOKE).parent / "digits.py")
    variants = make_variants(path, [], ["sample.classes=3;30"])
    with pytest.raises(DataError, match=r"sample.classes=\(30,\); .* allow 0..9"):
        compare(variants, tmp_path, num_seeds=1)


def test_runs_of_other_configurations_are_refused(tmp_path):
    folder = tmp_path / "base" / "seed0"
    folder.mkdir(parents=True)
    (old,) = make_variants(SMOKE, [*TINY, "model.num_layers=2"])
    text = config_to_json(old.config)
    (folder / "config.json").write_text(text)
    variants = make_variants(SMOKE, [*TINY, "sample.num_steps=9"])
    with pytest.raises(ConfigError, match="num_layers was 2, now 1"):
        plan_runs(variants, tmp_path, {"base": SPEED}, 1, None)


def test_runs_of_an_older_version_are_gone_on_with(tmp_path):
    """A field that did not exist yet had its default's effect."""
    (variant,) = make_variants(SMOKE, TINY)
    stored = variant.config.to_dict()
    del stored["model"]["noise_conditioning"], stored["sample"]["dilation"]
    (tmp_path / "base" / "seed0").mkdir(parents=True)
    (tmp_path / "base" / "seed0" / "config.json").write_text(json.dumps(stored))
    (run,) = plan_runs([variant], tmp_path, {"base": SPEED}, 1, None)
    assert run.differences() == []
    (blind,) = make_variants(SMOKE, [*TINY, "model.noise_conditioning=none"])
    with pytest.raises(ConfigError, match="conditioning was 'time', now 'none'"):
        plan_runs([blind], tmp_path, {"base": SPEED}, 1, None)


def test_refused_comparisons_leave_the_measured_budget(tmp_path, monkeypatch):
    (tmp_path / "base" / "seed0").mkdir(parents=True)
    (old,) = make_variants(SMOKE, [*TINY, "model.num_layers=2"])
    stored = config_to_json(old.config)
    (tmp_path / "base" / "seed0" / "config.json").write_text(stored)
    monkeypatch.setattr(ncgn_jax.compare, "measure_speeds", None)
    with pytest.raises(ConfigError, match="num_layers was 2, now 1") as error:
        compare(make_variants(SMOKE, TINY), tmp_path, num_seeds=1, seconds=5.0)
    # The number of steps is not known before a step is measured.
    assert "num_steps" not in str(error.value)


def test_variants_that_sample_otherwise_share_their_training(tmp_path):
    vary = ["sample.num_steps=2,4", "train.learning_rate=0.1,0.2"]
    runs = plan_runs(make_variants(SMOKE, TINY, vary), tmp_path, None, 2, None)
    stamps = [run.training_stamp for run in runs]
    # Two rates and two seeds.
    assert len(set(stamps)) == 4
    assert stamps[0] == stamps[2] != stamps[1] == stamps[3] != stamps[4]
    first, second = runs[0], runs[2]
    second.adopt_training(first.folder)
    assert not second.folder.exists()
    (first.folder / "checkpoints" / "3").mkdir(parents=True)
    (first.folder / "checkpoints" / "3" / "state").write_text("trained")
    (first.folder / "metrics.csv").write_text("step,name,value\n")
    second.folder.mkdir(parents=True)
    # What a copy that was broken off has left.
    (second.folder / "checkpoints.partial" / "2").mkdir(parents=True)
    second.adopt_training(first.folder)
    copied = sorted(path.name for path in second.folder.rglob("*"))
    assert copied == ["3", "checkpoints", "metrics.csv", "state"]
    # Its own stay.
    (first.folder / "checkpoints" / "3" / "state").write_text("other")
    second.adopt_training(first.folder)
    state = second.folder / "checkpoints" / "3" / "state"
    assert state.read_text() == "trained"
    # Likewise a first stage, of which there need not be one.
    second.adopt_first_stage(first.folder)
    (first.folder / "first_stage").mkdir()
    (first.folder / "first_stage" / "config.json").write_text("{}")
    second.adopt_first_stage(first.folder)
    assert (second.folder / "first_stage" / "config.json").read_text() == "{}"


def test_summary_has_mean_and_sample_deviation():
    summary = summarise({"a": [{"x": 1.0}, {"x": 2.0}, {"x": 6.0, "y": np.nan}]})
    assert summary["a"]["x"].mean == 3.0
    np.testing.assert_allclose(summary["a"]["x"].std, np.sqrt((4 + 1 + 9) / 2))
    assert "y" not in summary["a"]


def test_table_shows_spread_of_variants_and_plain_anchors():
    rows = {"dmp": [{"w_flat": 0.011}, {"w_flat": 0.013}]}
    text = format_summary(
        summarise(rows), {"train": {"w_flat": 0.012}}, POINT_CLOUD_COLUMNS, "caption"
    )
    assert "1.200 ± 0.141" in text
    assert text.count("±") == 3  # the cell, and twice in the legend


def test_command_line_faults(capsys):
    for arguments, expected in (
        ([], "--config=FILE is needed"),
        ([f"--config={SMOKE}", "--seeds=0"], "--seeds: found 0; allowed: at least 1"),
        ([f"--config={SMOKE}", "--seconds=0"], "--seconds: found 0; allowed: positive"),
        ([f"--config={SMOKE}", "--tmac=-1"], "--tmac: found -1; allowed: positive"),
        ([f"--config={SMOKE}", "--tmac=1"], "point_clouds does not count"),
        ([f"--config={SMOKE}", "--tmac=1", "--seconds=2"], "give one of them"),
        ([f"--config={SMOKE}", "--vary=model.wide=3"], "model.wide"),
    ):
        with pytest.raises(SystemExit) as error:
            main(["compare", *arguments])
        assert expected in str(error.value)


@pytest.mark.usefixtures("line_domain")
def test_speeds_are_measured():
    config = line_config()
    task = make_task(config)
    assert time_training_steps(config, task, num_steps=4, num_warm_up=2) > 0
    assert time_sampling(config, task) > 0


@pytest.mark.usefixtures("line_domain")
def test_compares_resumes_and_reports_failures(tmp_path, monkeypatch, capsys):
    trained = []

    def train(config, workdir, task):
        trained.append(Path(workdir).parent.name)
        return real_train(config, workdir, task)

    real_train = ncgn_jax.compare.train
    monkeypatch.setattr(ncgn_jax.compare, "train", train)
    monkeypatch.setattr(ncgn_jax.compare, "time_training_steps", lambda *_: 0.25)
    monkeypatch.setattr(ncgn_jax.compare, "time_sampling", lambda *_: 2.0)
    explicit = ["good: train.learning_rate=0.001", "bad: train.learning_rate=1e30"]
    path = tmp_path / "line.py"
    path.write_text(CONFIG_FILE)
    variants = make_variants(str(path), ["sample.num_samples=9"], [], explicit)
    text = compare(variants, tmp_path, num_seeds=1, seconds=0.75)
    assert trained == ["good", "bad"]
    assert "failed: bad, seed 0: step" in text
    assert "| good" in text
    assert "| bad" not in text
    stored = json.loads((tmp_path / "comparison.json").read_text())
    good = stored["variants"]["good"]
    assert len(good["error"]["values"]) == 1
    assert good["train_steps"]["mean"] == 3
    assert set(stored["failed"]) == {"bad, seed 0"}
    assert set(stored["anchors"]) == {"truth"}
    with (tmp_path / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows[:2]] == ["good", "truth"]
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    # Finished runs are skipped; one more seed is trained, and the budget stays.
    trained.clear()
    monkeypatch.setattr(ncgn_jax.compare, "time_training_steps", None)
    compare(variants[:1], tmp_path, num_seeds=2, seconds=0.75)
    assert trained == ["good"]
    stored = json.loads((tmp_path / "comparison.json").read_text())
    again = stored["variants"]["good"]["error"]["values"]
    assert again[:1] == good["error"]["values"]
    assert len(again) == 2
