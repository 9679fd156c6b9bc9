"""Several training steps at a call: the same training, told of later."""

from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncgn_jax.config import apply_overrides, load_config
from ncgn_jax.domains import make_task, validate
from ncgn_jax.faults import ConfigError, TrainingError
from ncgn_jax.loop import _calls, train
from ncgn_jax.run.checkpoint import Checkpoints
from ncgn_jax.run.logs import read_metrics
from ncgn_jax.run.preemption import Preempted, Preemption
from tests.line_task import line_config

SMOKE = Path(__file__).resolve().parent.parent / "configs" / "smoke.py"
TINY = "train.num_steps=10", "train.max_to_keep=9", "train.log_every_steps=3"
pytestmark = pytest.mark.usefixtures("line_domain")


def tiny_config(steps_per_call, *overrides):
    return line_config(*TINY, f"train.steps_per_call={steps_per_call}", *overrides)


class StopAt(Preemption):
    """Is asked to stop after a call; keeps which calls it heard of."""

    def __init__(self, call=0):
        super().__init__()
        self.heard, self._call = [], call

    def reached(self, call):
        self.heard.append(call)
        return call == self._call


@given(st.integers(0, 30), st.integers(1, 30), st.integers(1, 9))
def test_calls_end_where_those_of_an_unstopped_run_do(start, length, size):
    calls = _calls(start, start + length, size)
    steps = [step for first, count in calls for step in range(first, first + count)]
    assert steps == list(range(start, start + length))
    ends = [first + count for first, count in calls]
    assert all(end % size == 0 for end in ends[:-1])
    assert max(count for _, count in calls) <= size
    whole = [first + count for first, count in _calls(0, start + length, size)]
    assert ends == [end for end in whole if end > start]


def test_several_steps_at_a_call_are_the_same_training(tmp_path):
    runs = {}
    for size in (1, 2, 4):
        listener, folder = StopAt(), tmp_path / str(size)
        state = train(tiny_config(size), folder, preemption=listener)
        store = Checkpoints(folder, "{}", read_only=True)
        assert store.steps() == [4, 8, 10]
        # Each after the one before, as several processes need it to agree on one.
        assert listener.heard == list(range(1, -(-10 // size) + 1))
        runs[size] = jax.device_get(state), read_metrics(folder)
    for size in (2, 4):
        state, log = runs[size]
        assert int(state.step) == 10
        chex.assert_trees_all_close(state, runs[1][0], rtol=1e-4, atol=1e-6)
        assert log["loss"][0] == runs[1][1]["loss"][0] == [3, 6, 9]
        for name, (_, values) in runs[1][1].items():
            np.testing.assert_allclose(log[name][1], values, rtol=1e-4, err_msg=name)


def test_a_stopped_run_resumes_to_the_same_bits(tmp_path):
    config = tiny_config(4)
    whole = train(config, tmp_path / "whole")
    with pytest.raises(Preempted) as stop:
        train(config, tmp_path / "parts", preemption=StopAt(1))
    assert stop.value.step == 4
    parts = train(config, tmp_path / "parts")
    chex.assert_trees_all_equal(*map(jax.device_get, (whole, parts)))
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "parts")


def test_each_number_of_steps_is_traced_once(tmp_path, monkeypatch):
    config = tiny_config(4, "train.num_steps=18", "train.checkpoint_every_steps=8")
    task, traces = make_task(config), []
    loss = task.loss
    monkeypatch.setattr(task, "loss", lambda *a: traces.append(1) or loss(*a))
    train(config, tmp_path, task)
    # Four calls of 4 steps and one of 2; tracing a scan visits its body once or twice.
    assert len(traces) <= 4
    longer = tiny_config(4, "train.num_steps=80", "train.checkpoint_every_steps=8")
    before = len(traces)
    train(longer, tmp_path / "longer", task)
    assert len(traces) - before <= 2


def test_the_step_that_is_not_finite_is_named(tmp_path, monkeypatch):
    config = tiny_config(4, "train.log_every_steps=1")
    task = make_task(config)
    batch = task.batch

    def spoilt(step, rows):
        factor = np.float32(np.nan if step == 6 else 1)
        return jax.tree.map(lambda leaf: leaf * factor, batch(step, rows))

    monkeypatch.setattr(task, "batch", spoilt)
    with pytest.raises(TrainingError, match=r"step 7: .*checkpoint 4 is the last"):
        train(config, tmp_path, task)
    assert Checkpoints(tmp_path, "{}", read_only=True).steps() == [4]
    assert read_metrics(tmp_path)["loss"][0] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("smoke", ["train.steps_per_call=0"], "steps_per_call: found 0; allowed: an i"),
        (
            "smoke",
            ["train.steps_per_call=3", "train.checkpoint_every_steps=8"],
            "steps_per_call: found 3; allowed: what divides .*every_steps, 8",
        ),
        ("digits", ["train.steps_per_call=2"], "found 2; allowed: 1 where dmp"),
    ],
)
def test_what_cannot_be_is_refused(name, overrides, expected):
    config = apply_overrides(load_config(SMOKE.with_name(f"{name}.py")), overrides)
    with pytest.raises(ConfigError, match=expected):
        validate(config)
