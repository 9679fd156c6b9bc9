"""Running on several devices: same numbers, one compilation, no hidden copies."""

import os
import socket
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ncgn_jax import parallel
from ncgn_jax.faults import ProcessError
from ncgn_jax.run.state import make_train_state

TX = optax.adam(1e-2)


def _loss(params, batch):
    return jnp.mean((batch @ params["w"]) ** 2)


def _train_step(state, batch, rng):
    loss, grads = jax.value_and_grad(_loss)(state.params, batch)
    loss, grads = parallel.mean_over_devices((loss, grads))
    updates, opt_state = TX.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    noise = jax.random.fold_in(rng, parallel.device_index())
    metrics = {
        "loss": loss,
        "rows": parallel.mean_over_devices(float(batch.shape[0])),
        "noise": parallel.mean_over_devices(jax.random.normal(noise)),
    }
    return state.replace(
        step=state.step + 1, params=params, opt_state=opt_state
    ), metrics


@pytest.fixture
def state():
    params = {"w": jnp.arange(12.0).reshape(4, 3) / 10}
    return make_train_state(params, {}, TX)


@pytest.fixture
def batch():
    return np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)


def test_eight_devices_do_what_one_does(state, batch, rng):
    loss, grads = jax.value_and_grad(_loss)(state.params, batch)
    updates, _ = TX.update(grads, state.opt_state, state.params)
    expected = optax.apply_updates(state.params, updates)

    step = parallel.data_parallel(_train_step)
    after, metrics = step(state, parallel.split_for_devices(batch), rng)
    assert parallel.num_devices() == 8
    assert after.params["w"].shape == (4, 3)
    np.testing.assert_allclose(after.params["w"], expected["w"], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    assert metrics["rows"] == 2  # on each of eight devices
    draws = [jax.random.normal(jax.random.fold_in(rng, i)) for i in range(8)]
    np.testing.assert_allclose(metrics["noise"], np.mean(draws), rtol=1e-5)


def test_one_compilation_and_no_implicit_transfer(state, batch, rng):
    step = parallel.data_parallel(chex.assert_max_traces(_train_step, n=1))
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            state, _ = step(state, parallel.split_for_devices(batch), rng)
    assert int(state.step) == 3


def test_state_stays_on_the_devices(state, batch, rng):
    step = parallel.data_parallel(_train_step)
    state, _ = step(state, parallel.split_for_devices(batch), rng)
    placed, rng = parallel.put_batch(batch), parallel.replicate(rng)
    with jax.transfer_guard("disallow_explicit"):
        state, _ = step(state, placed, rng)
    assert len(state.params["w"].sharding.device_set) == 8


def test_placing_twice_changes_nothing(state):
    once = parallel.replicate(state)
    assert parallel.replicate(once) is once
    assert len(once.params["w"].sharding.device_set) == 8


def test_donation_frees_the_old_state_but_not_its_origin(state, batch, rng):
    step = parallel.data_parallel(_train_step)
    first, _ = step(state, parallel.split_for_devices(batch), rng)
    second, _ = step(first, parallel.split_for_devices(batch), rng)
    assert first.params["w"].is_deleted()
    assert not second.params["w"].is_deleted()
    assert np.isfinite(np.asarray(state.params["w"])).all()

    kept = parallel.data_parallel(_train_step, donate_argnums=())
    kept(second, parallel.split_for_devices(batch), rng)
    assert not second.params["w"].is_deleted()


def test_abstract_evaluation(state, batch, rng):
    step = parallel.data_parallel(_train_step)
    after, _ = jax.eval_shape(step, state, parallel.split_for_devices(batch), rng)
    chex.assert_trees_all_equal_shapes(after.params, state.params)


def test_split_and_merge_are_inverse(rng):
    batch = {"x": np.arange(48).reshape(16, 3), "rng": jax.random.split(rng, 16)}
    split = parallel.split_for_devices(batch)
    assert split["x"].shape == (8, 2, 3)
    assert split["rng"].shape == (8, 2)
    np.testing.assert_array_equal(split["x"][1, 0], batch["x"][2])
    np.testing.assert_array_equal(parallel.merge_devices(split)["x"], batch["x"])


@pytest.mark.parametrize("rows", [0, 4, 12])
def test_indivisible_batches_name_both_numbers(rows):
    with pytest.raises(ValueError, match=rf"batch of {rows} .* 8 local devices"):
        parallel.split_for_devices({"x": np.zeros((rows, 2))})


def test_global_batch_size():
    assert parallel.local_batch_size(24) == 24
    for wrong in (12, 0, -8):
        with pytest.raises(ValueError, match=rf"{wrong} cannot .* 8 devices"):
            parallel.local_batch_size(wrong)


def test_a_batch_without_device_axis_is_refused(state, batch, rng):
    step = parallel.data_parallel(_train_step)
    with pytest.raises(ValueError, match=r"\(4, 4, 4\) needs a first axis of 8"):
        step(state, batch.reshape(4, 4, 4), rng)


@pytest.mark.parametrize("rows", [1, 8, 13])
def test_mapping_any_number_of_rows(rng, rows):
    def sample(keys, params):
        return {"x": jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys) * params}

    keys = jax.random.split(rng, rows)
    params = jnp.full((3,), 2.0)[None]
    found = parallel.map_over_devices(sample)(keys, params)
    assert isinstance(found["x"], np.ndarray)
    np.testing.assert_allclose(found["x"], sample(keys, params)["x"], rtol=1e-6)


def test_mapping_beside_a_tree_without_a_leaf():
    """As the parameters of a network without any, beside rows of several arrays."""
    mapped = parallel.map_over_devices(
        lambda rows, others, params, shift: (rows[0] + others + shift, rows[1]), (0, 1)
    )
    x = np.arange(9.0)
    found = mapped((x, 2 * x), 10 * x, {}, np.float32(1))
    np.testing.assert_array_equal(found, (11 * x + 1, 2 * x))


def test_one_process_needs_no_start(monkeypatch):
    for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(f"JAX_{name}", raising=False)
    parallel.start()
    monkeypatch.setenv("JAX_NUM_PROCESSES", "1")
    parallel.start()
    assert parallel.is_main_process()
    assert parallel.num_processes() == 1
    parallel.wait_for_all("nothing")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(
        ProcessError, match="COORDINATOR_ADDRESS=None, JAX_NUM_PROCESSES=2"
    ):
        parallel.start()
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_PROCESS_ID", "2")
    with pytest.raises(ProcessError, match=r"2 is outside 0\.\.1"):
        parallel.start()


WORKER = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from ncgn_jax import parallel, processes
from ncgn_jax.run.checkpoint import Checkpoints
parallel.start()
rank = jax.process_index()
assert (parallel.num_devices(), len(parallel.local_devices())) == (4, 2)
assert parallel.is_main_process() == (rank == 0)
assert parallel.local_batch_size(8) == 4

def step(state, batch, rng):
    mean = parallel.mean_over_devices(batch.mean())
    return {"w": state["w"] + mean, "n": state["n"] + 1}, parallel.device_index() * 0

step = parallel.data_parallel(step)
batch = np.arange(4, dtype=np.float32) + 4 * rank  # the global batch is 0 .. 7
state = {"w": jax.numpy.zeros(3), "n": jax.numpy.int32(0)}
store = Checkpoints(sys.argv[1], "{}")
for _ in range(3):
    state, _ = step(state, parallel.split_for_devices(batch), jax.random.key(0))
store.save(3, state)
store.wait()
parallel.wait_for_all("saved")
restored, number = store.restore(jax.eval_shape(lambda: state))
store.close()
restored, _ = step(restored, parallel.split_for_devices(batch), jax.random.key(0))
np.testing.assert_allclose(restored["w"], np.full(3, 4 * 3.5))
rows = np.arange(5, dtype=np.float32)  # do not fill 4 devices evenly
double = parallel.map_over_devices(lambda x: x * 2)
np.testing.assert_array_equal(double(rows), rows * 2)
if rank == 0:
    with parallel.alone():
        np.testing.assert_array_equal(double(rows), rows * 2)
assert parallel.rows_of_process(8) == slice(4 * rank, 4 * rank + 4)

processes.check_same({"configuration": "a"})
try:
    processes.check_same({"configuration": "a", "data": f"of {rank}"})
    raise AssertionError("differences were not noticed")
except processes.ProcessError as error:
    assert "different from process 0: process 1\\n" in str(error)
    assert ("data here:\\n    of 1" in str(error)) == (rank == 1)
try:
    processes.from_main({}.popitem)
    raise AssertionError("the failure of process 0 was not passed on")
except (KeyError, processes.ProcessError) as error:
    assert isinstance(error, KeyError) == (rank == 0)
    assert "dictionary is empty" in str(error)
large = np.arange(100, dtype=np.uint8)
processes._CHUNK_BYTES = 33
np.testing.assert_array_equal(processes.from_main(lambda: large[: 100 - rank]), large)
print("finished", number, int(restored["n"]))
"""


@pytest.mark.slow
def test_two_processes_train_save_and_restore_together(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path)],
            env=environment | {"JAX_PROCESS_ID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        results = [worker.communicate(timeout=120) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()  # one that failed leaves the other waiting
    for worker, (out, err) in zip(workers, results, strict=True):
        assert worker.returncode == 0, err
        assert out.splitlines()[-1] == "finished 3 4"
