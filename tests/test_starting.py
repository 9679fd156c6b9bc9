"""Runs that start from the weights of others, where these fit."""

from pathlib import Path

import jax
import numpy as np
import pytest

from ncgn_jax.config import load_config, with_fields
from ncgn_jax.domains import make_task
from ncgn_jax.faults import CheckpointError, ConfigError
from ncgn_jax.loop import train
from ncgn_jax.starting import read_start
from tests.line_task import LineTask, line_config

SMOKE = Path(__file__).resolve().parent.parent / "configs" / "smoke.py"
pytestmark = pytest.mark.usefixtures("line_domain")


@pytest.fixture
def source(tmp_path):
    config = line_config("train.num_steps=8", "train.learning_rate=0.1")
    state = train(config, tmp_path / "source")
    return tmp_path / "source", jax.device_get(state.ema)


def started(source, *overrides):
    config = line_config("train.num_steps=1", "train.learning_rate=1e-9", *overrides)
    return with_fields(config, {"train.start_from": str(source)})


def test_training_goes_on_from_averaged_weights(source, tmp_path, capsys):
    folder, ema = source
    state = train(started(folder), tmp_path / "new")
    for name in ("weights", "offset"):
        np.testing.assert_allclose(state.params[name], ema[name], atol=1e-6)
        np.testing.assert_allclose(state.ema[name], ema[name], atol=1e-6)
    assert "source, 8 steps: 2 arrays" in capsys.readouterr().out
    # This one needs the other no more.
    folder.rename(tmp_path / "away")
    train(started(folder, "train.num_steps=3"), tmp_path / "new")


def test_arrays_of_another_shape_start_anew(source, tmp_path, capsys):
    folder, ema = source
    state = train(started(folder, "model.width=7"), tmp_path / "new")
    np.testing.assert_allclose(state.params["offset"], ema["offset"], atol=1e-6)
    assert state.params["weights"].shape == (7,)
    assert "anew: params/weights, (7,) here, (4,) there" in capsys.readouterr().out


def test_arrays_with_a_place_for_each_name_start_anew(source, monkeypatch):
    """A weight for each of the names, though as many as before."""
    folder, _ = source
    learned = LineTask.facts_type(("x", "z"), 1.0)
    monkeypatch.setattr(LineTask, "learn", classmethod(lambda *_: learned))

    def init(self, rng):
        return {"weights": np.zeros(2 + len(self.facts.names)), "offset": 0.0}, {}

    monkeypatch.setattr(LineTask, "init", init)
    start = read_start(make_task(line_config()), str(folder))
    assert set(start.weights) == {"params/offset"}
    assert start.anew == {"params/weights": "because names differ"}


def test_what_cannot_be_a_start_is_refused_before_training(source, tmp_path):
    folder, _ = source
    with pytest.raises(CheckpointError, match="there is no model"):
        train(started(tmp_path / "nothing"), tmp_path / "new")
    assert not (tmp_path / "new" / "checkpoints").exists()
    clouds = make_task(load_config(SMOKE))
    with pytest.raises(ConfigError, match="a model of line; allowed: one of point_cl"):
        read_start(clouds, str(folder))


def test_a_resumed_run_does_not_start_again(source, tmp_path, capsys):
    folder, _ = source
    train(started(folder), tmp_path / "new")
    capsys.readouterr()
    train(started(folder, "train.num_steps=2"), tmp_path / "new")
    assert "starting from" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match="train.start_from: was .*, now None"):
        train(line_config("train.learning_rate=1e-9"), tmp_path / "new")
