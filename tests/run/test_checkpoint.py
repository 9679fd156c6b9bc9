"""Checkpoints: bitwise, atomic, and clear about what is wrong with a bad one."""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ncgn_jax.faults import CheckpointError
from ncgn_jax.run.checkpoint import Checkpoints
from ncgn_jax.run.state import make_train_state

TX = optax.adamw(optax.cosine_decay_schedule(1e-3, 100))


def _state(width=8, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "layer_0": {"kernel": jax.random.normal(keys[0], (4, width))},
        "layer_1": {"kernel": jax.random.normal(keys[1], (width, 2), jnp.bfloat16)},
    }
    # Large enough to lie in a file of its own, which the tests below damage.
    bulk = jax.random.normal(keys[2], (5000,))
    model_state = {"nan": jnp.full(3, jnp.nan), "bulk": bulk, "rng": keys[2], "no": {}}
    state = make_train_state(params, model_state, TX)
    grads = jax.tree.map(jnp.ones_like, params)
    _, opt_state = TX.update(grads, state.opt_state, params)
    return state.replace(step=jnp.int32(seed), opt_state=opt_state)


def _raw(tree):
    return [
        np.asarray(
            jax.random.key_data(x)
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
        )
        for x in jax.tree.leaves(tree)
    ]


def _assert_bitwise(found, expected):
    chex.assert_trees_all_equal_structs(found, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    for one, other in zip(_raw(found), _raw(expected), strict=True):
        assert one.tobytes() == other.tobytes()


class PromptCheckpoints(Checkpoints):
    """Waits for every save, so that what it wrote can be looked at and spoiled."""

    def save(self, *args, **fields):
        super().save(*args, **fields)
        self.wait()


@pytest.fixture
def store(tmp_path):
    store = PromptCheckpoints(tmp_path, '{"model": {"width": 8}}')
    yield store
    store.close()


def _data_file(store, step):
    files = [p for p in (store.folder / str(step) / "state").rglob("*") if p.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def test_round_trip_is_bitwise(store):
    state = _state(seed=3)
    store.save(3, state)
    found, step = store.restore(jax.eval_shape(lambda: state))
    assert step == 3
    _assert_bitwise(found, state)


def test_empty_arrays_and_numpy_leaves(store):
    state = {"empty": np.zeros((0, 3)), "count": np.int64(7), "flags": np.array([True])}
    store.save(1, state)
    arrays, _, _ = store.read(1)
    assert arrays["empty"].shape == (0, 3)
    assert arrays["count"] == 7
    store.save(2, {})
    assert store.restore({}) == ({}, 2)


def test_saved_values_are_those_of_the_call(tmp_path):
    """The background must not read arrays that the next step overwrites."""
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    store = Checkpoints(tmp_path, "{}")
    state = {"w": jnp.zeros(200_000)}
    host = np.zeros(1000)
    for number in range(3):
        store.save(number, state | {"host": host})
        state = step(state)
        host += 1
    store.close()
    for number in range(3):
        arrays, _, _ = store.read(number)
        assert (arrays["w"] == number).all()
        assert (arrays["host"] == number).all()


def test_the_newest_few_are_kept(store):
    assert store.steps() == []
    assert store.restore(_state()) is None
    for step in (100, 200, 300, 1000):
        store.save(step, _state(seed=step))
    assert store.steps() == [200, 300, 1000]
    found, step = store.restore(_state())
    assert (step, int(found.step)) == (1000, 1000)


def test_a_stored_step_stays_as_it_is(store):
    store.save(5, _state(seed=1))
    store.save(5, _state(seed=2))
    assert int(store.restore(_state())[0].step) == 1


def test_nothing_is_written_before_the_first_save(tmp_path):
    Checkpoints(tmp_path / "run", "{}").close()
    assert Checkpoints(tmp_path / "run", "{}", read_only=True).restore({}) is None
    assert not (tmp_path / "run").exists()
    with pytest.raises(CheckpointError, match="reading only"):
        Checkpoints(tmp_path / "run", "{}", read_only=True).save(0, {})


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [_truncate, _flip_bit, os.remove])
def test_damaged_newest_falls_back_and_says_so(store, caplog, damage):
    for step in (200, 400):
        store.save(step, _state(seed=step))
    damage(_data_file(store, 400))
    with caplog.at_level(logging.WARNING):
        found, step = store.restore(_state())
    assert (step, int(found.step)) == (200, 200)
    assert "checkpoint 400 unreadable (" in caplog.text
    assert "; using 200" in caplog.text
    # The run comes past step 400 again: the good state must replace the damaged one.
    store.save(300, _state(seed=300))
    store.save(400, _state(seed=400))
    assert store.steps() == [200, 300, 400]
    assert (store.folder / "unreadable-400").is_dir()
    _assert_bitwise(store.restore(_state())[0], _state(seed=400))


def test_a_damaged_manifest_counts_as_unreadable(store):
    for step in (1, 2):
        store.save(step, _state(seed=step))
    _truncate(store.folder / "2" / "about" / "metadata")
    assert store.restore(_state())[1] == 1
    with pytest.raises(
        CheckpointError, match=r"checkpoint 2 .* unreadable .* \[1, 2\]"
    ):
        store.read(2)


def test_no_readable_checkpoint_is_not_a_fresh_start(store):
    store.save(7, _state())
    _truncate(_data_file(store, 7))
    with pytest.raises(
        CheckpointError, match=r"no checkpoint in .* can be read(.|\n)*7:"
    ):
        store.restore(_state())


def test_another_model_is_named_with_its_configuration(store, tmp_path):
    store.save(200, _state(width=8))
    other = Checkpoints(tmp_path, '{"model": {"width": 16, "depth": 2}}')
    with pytest.raises(CheckpointError) as caught:
        other.restore(jax.eval_shape(lambda: _state(width=16)))
    message = str(caught.value)
    assert "checkpoint 200" in message
    assert (
        "params/layer_0/kernel: stored (4, 8) float32, model needs (4, 16) float32"
        in message.replace("ema/", "params/")
    )
    assert "and 2 more" in message
    assert "model.width: stored 8, now 16" in message
    assert "model.depth: stored nothing, now 2" in message


def test_missing_extra_and_retyped_leaves(store):
    store.save(1, {"a": jnp.zeros(2), "b": jnp.zeros(3), "key": jax.random.key(0)})
    wanted = {"a": jnp.zeros(2, jnp.int32), "c": jnp.zeros(1), "key": jnp.zeros(2)}
    with pytest.raises(CheckpointError) as caught:
        store.restore(wanted)
    assert [line.strip() for line in str(caught.value).splitlines()[1:5]] == [
        "a: stored (2,) float32, model needs (2,) int32",
        "b: stored (3,) float32, model has none",
        "c: not stored, model needs (1,) float32",
        "key: stored () key<fry>, model needs (2,) float32",
    ]


def test_reading_without_a_model(store):
    state = _state()
    store.save(4, state)
    arrays, config_json, versions = store.read(4)
    kernel = arrays["params/layer_1/kernel"]
    assert kernel.dtype == jnp.bfloat16
    np.testing.assert_array_equal(kernel, state.params["layer_1"]["kernel"])
    assert config_json == '{"model": {"width": 8}}'
    assert versions["jax"] == jax.__version__


def _save_and_wait(store, step, state):
    store.save(step, state)
    store.wait()


def test_a_full_disk_keeps_the_earlier_ones(tmp_path):
    """A limit on file size stands in for a full disk: the write itself fails."""
    store = Checkpoints(tmp_path, "{}")
    noise = np.random.default_rng(0).normal(size=200_000)
    store.save(1, {"w": noise})
    store.wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    try:
        with pytest.raises(
            CheckpointError, match=r"checkpoint 2 .*File too large.* \[1\]"
        ):
            _save_and_wait(store, 2, {"w": noise + 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in store.folder.iterdir() if path.is_dir()] == ["1"]
    arrays, _, _ = store.read(1)
    np.testing.assert_array_equal(arrays["w"], noise)
    store.save(2, {"w": noise + 2})
    store.close()
    assert store.steps() == [1, 2]


def test_the_next_save_tells_what_the_background_could_not_write(tmp_path):
    store = Checkpoints(tmp_path, "{}")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    try:
        store.save(1, {"w": np.random.default_rng(0).normal(size=200_000)})
        with pytest.raises(CheckpointError, match=r"checkpoint 1 could not"):
            store.save(2, {"w": np.zeros(3)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(store.folder.iterdir()) == []


def test_no_space_left_is_worded(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path, "{}")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.save", full)
    with pytest.raises(CheckpointError, match=r"No space left.*GB free.*kept: none"):
        store.save(2, {"w": np.zeros(3)})


def test_leftovers_of_a_kill_are_ignored_then_cleared(store):
    store.save(100, _state(seed=100))
    leftover = store.folder / "150.orbax-checkpoint-tmp"
    (leftover / "state").mkdir(parents=True)
    again = Checkpoints(store.folder.parent, "{}")
    assert again.restore(_state())[1] == 100
    assert leftover.exists()
    again.save(200, _state(seed=200))
    again.close()
    assert not leftover.exists()
    assert again.steps() == [100, 200]


WRITER = """
import sys
import numpy as np
from ncgn_jax.run.checkpoint import Checkpoints
store = Checkpoints(sys.argv[1], "{}")
print("ready", flush=True)
for step in range(1, 10_000):
    store.save(step, {"w": np.full(300_000, step), "step": np.int64(step)})
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for trial in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / str(trial))],
            env=environment,
            stdout=subprocess.PIPE,
        )
        writer.stdout.readline()
        store = Checkpoints(tmp_path / str(trial), "{}")
        while len(store.steps()) < 2:
            time.sleep(0.01)
        time.sleep(0.05 + 0.07 * trial)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        expected = store.steps()[-1]
        like = {"w": np.zeros(300_000, np.int64), "step": np.int64(0)}
        jax.config.update("jax_enable_x64", True)
        try:
            state, step = store.restore(like)
        finally:
            jax.config.update("jax_enable_x64", False)
        assert step == expected == int(state["step"])
        assert (np.asarray(state["w"]) == step).all()
        store.save(step + 1, like)
        store.close()
        assert store.steps()[-1] == step + 1
        assert not list(store.folder.glob("*tmp*"))


def test_the_newest_and_the_best_are_kept(tmp_path):
    """Also over a restart; of equals the later; without a loss none is the best."""
    losses = {1: 5.0, 2: 1.0, 3: 4.0, 4: None, 5: 1.0, 6: 3.0}
    kept = {1: [1], 2: [1, 2], 3: [2, 3], 4: [2, 3, 4], 5: [4, 5], 6: [5, 6]}
    for step, loss in losses.items():
        store = Checkpoints(tmp_path, "{}", 2)
        store.save(step, {"w": np.full(3, step)}, loss=loss)
        store.close()
        assert store.steps() == kept[step]
        assert store.best() == {1: 1, 5: 5, 6: 5}.get(step, 2)
    like = {"w": np.zeros(3, np.int64)}
    with jax.enable_x64(True):
        for wanted, step in (("best", 5), (5, 5), (6, 6), ("newest", 6)):
            state, found = store.restore(like, step=wanted)
            assert found == step
            assert (np.asarray(state["w"]) == step).all()
    with pytest.raises(
        CheckpointError, match=r"no checkpoint 4 in .*there are \[5, 6\]"
    ):
        store.restore(like, step=4)


def test_no_best_without_a_loss(store):
    store.save(1, {"w": np.zeros(3, np.float32)})
    assert store.best() is None
    with pytest.raises(CheckpointError, match="no checkpoint best"):
        store.restore({"w": np.zeros(3, np.float32)}, step="best")


def test_notes_come_back_with_the_state(store):
    state = {"w": np.zeros(3, np.float32)}
    assert store.notes == {}
    store.save(1, state, notes={"losses": [0.1, 2]})
    again = Checkpoints(store.folder.parent, "{}", read_only=True)
    again.restore(state)
    assert again.notes == {"losses": [0.1, 2]}


def test_any_number_of_arrays_is_one_buffer(tmp_path):
    """Orbax takes time for each array; 404 of them would hold up the training loop."""
    params = {
        f"layer_{i}": {"w": jnp.ones((10, 99)), "b": jnp.ones(10)} for i in range(100)
    }
    store = Checkpoints(tmp_path, "{}")
    store.save(0, make_train_state(params, {}, optax.adam(1e-3)))
    store.close()
    (path,) = tmp_path.rglob("_METADATA")
    assert list(json.loads(path.read_text())["tree_metadata"]) == ["('buffer',)"]
