"""The command line, end to end on a toy size, and what it says to bad input."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ncgn_jax.config import ConfigError, apply_overrides, load_config
from ncgn_jax.faults import CheckpointError, DataError
from ncgn_jax.graphs.fitted_schedules import table_overrides
from ncgn_jax.levels import measure_levels
from ncgn_jax.loop import validate
from ncgn_jax.main import main
from ncgn_jax.run.checkpoint import Checkpoints
from ncgn_jax.running import run

REPOSITORY = Path(__file__).resolve().parent.parent
SMOKE = str(REPOSITORY / "configs" / "smoke.py")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    run(SMOKE, [], str(workdir), "all")
    return workdir


@pytest.mark.slow
def test_one_command_leaves_table_samples_metrics_and_pictures(finished):
    table = json.loads((finished / "table.json").read_text())
    for row in ("ema", "raw", "noise", "origin", "train", "held_out"):
        assert np.isfinite(table["rows"][row]["w_flat"])
    for field in ("data_set", "split", "sizes", "seed", "weights", "steps", "device"):
        assert str(table["meta"][field])
    assert "embedded" in table["meta"]["data_set"]
    (path,) = (finished / "samples").glob("*/ema.npz")
    with np.load(path, allow_pickle=False) as samples:
        assert samples["points"].shape == (8, 32, 3)
        assert np.isfinite(samples["points"]).all()
    assert (finished / "metrics.csv").is_file()
    assert list((finished / "tensorboard").iterdir())
    assert json.loads((finished / "config.json").read_text())["task"] == "point_clouds"
    assert (finished / "pictures" / "samples.png").is_file()


@pytest.mark.slow
def test_running_again_changes_nothing_and_reuses_samples(finished):
    (path,) = (finished / "samples").glob("*/ema.npz")
    before = path.stat().st_mtime_ns
    table = (finished / "table.json").read_text()
    run(SMOKE, [], str(finished), "evaluate", pictures=False)
    assert path.stat().st_mtime_ns == before
    assert json.loads((finished / "table.json").read_text()) == json.loads(table)


@pytest.mark.slow
def test_time_grid_and_schedule_are_fitted_to_a_run(finished, tmp_path):
    # As if it had been trained with every graph at every level.
    workdir = shutil.copytree(finished, tmp_path / "run")
    config = json.loads((finished / "config.json").read_text())
    config["dmp"]["random_buckets"] = True
    (workdir / "config.json").write_text(json.dumps(config))
    found = measure_levels(workdir, num_levels=4, num_examples=2, sampler="ab2")
    stored = json.loads((workdir / "levels.json").read_text())
    assert stored["data_error"] == found["data_error"]
    assert len(stored["step_error"]) == len(stored["step_times"]) - 1 == 4
    assert stored["error_table"][-1] == [1.0, 1.0]
    # Nearly clean clouds are nearly right, whatever the network says.
    assert found["data_error"][-1] < 0.1 < found["data_error"][0]
    errors = np.asarray(stored["bucket_errors"])
    assert errors.shape == (4, len(stored["num_supernodes"]))
    assert stored["num_supernodes"] == sorted(stored["num_supernodes"])
    # Each level's own bucket is among them.
    own = np.asarray(stored["target_error"])[:, None]
    assert np.isclose(errors, own).any(axis=1).all()
    assert (workdir / "levels.png").stat().st_size > 10_000
    learned = table_overrides(tuple(map(tuple, stored["dmp_table"])))
    validate(apply_overrides(load_config(SMOKE), learned))
    overrides = ["sample.time_grid=table", "sample.num_steps=3"]
    overrides += [f"sample.time_table={tuple(map(tuple, stored['time_table']))}"]
    fields = [*overrides, "evaluate.weights=ema"]
    run(SMOKE, fields, str(finished), "sample", pictures=False)
    with pytest.raises(ConfigError, match="holds no run"):
        measure_levels(tmp_path / "nothing", 4, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [
        "ancestral",
        *(
            pytest.param(name, marks=pytest.mark.thorough)
            for name in ("heun", "ab2", "dpmpp_2m")
        ),
    ],
)
def test_one_sampler_step_is_enough_for_every_sampler(finished, sampler):
    overrides = ["sample.num_steps=1", f"sample.sampler={sampler}"]
    overrides += ["evaluate.weights=ema"]
    named = {"samples": sampler, "pictures": False}
    run(SMOKE, overrides, str(finished), "sample", **named)
    path = finished / "samples" / sampler / "ema.npz"
    with np.load(path, allow_pickle=False) as samples:
        assert np.isfinite(samples["points"]).all()


@pytest.mark.slow
def test_a_checkpoint_can_be_chosen(finished, tmp_path, monkeypatch):
    workdir = shutil.copytree(finished, tmp_path / "run")
    monkeypatch.setattr(Checkpoints, "best", lambda self: 4)
    for checkpoint, step in (("best", 4), ("newest", 8), ("4", 4)):
        overrides = ["evaluate.weights=ema", "sample.num_steps=1"]
        run(
            SMOKE,
            overrides,
            str(workdir),
            "evaluate",
            checkpoint=checkpoint,
            pictures=False,
        )
        table = json.loads((workdir / "table.json").read_text())
        assert table["meta"]["steps"] == step
    with pytest.raises(CheckpointError, match="no checkpoint 5"):
        run(SMOKE, [], str(workdir), "sample", checkpoint="5")


def test_a_checkpoint_is_chosen_for_sampling_only(tmp_path):
    with pytest.raises(ConfigError, match="allowed: newest, best or a step"):
        run(SMOKE, [], str(tmp_path), "sample", checkpoint="worst")
    with pytest.raises(ConfigError, match="goes with --mode=sample"):
        run(SMOKE, [], str(tmp_path), "all", checkpoint="best")


def test_nothing_is_written_before_validation(tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(ConfigError, match="dmp.schedule"):
        run(SMOKE, ["dmp.schedule=expp"], str(workdir), "all")
    missing = ["data.source=files", "data.path=/nowhere"]
    with pytest.raises(DataError, match="no such file"):
        run(SMOKE, missing, str(workdir), "all")
    assert not workdir.exists()


def test_sampling_without_a_checkpoint_says_to_train(tmp_path):
    with pytest.raises(CheckpointError, match="train first"):
        run(SMOKE, [], str(tmp_path), "sample")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config=FILE is needed"),
        (["--config=configs/smok.py"], "did you mean 'smoke'"),
        (["--config=configs/smoke.py", "stray"], "unknown arguments"),
    ],
)
def test_command_line_faults_are_one_message(arguments, message, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(SystemExit, match="error: .*" + re.escape(message)):
        main(["main", *arguments])


@pytest.mark.slow
def test_a_fault_leaves_no_traceback():
    arguments = ["--config=configs/smoke.py", "--config.dmp.schedul=exp"]
    result = subprocess.run(
        [sys.executable, "-m", "ncgn_jax.main", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert "did you mean 'dmp.schedule'" in result.stderr
    assert "Traceback" not in result.stderr
