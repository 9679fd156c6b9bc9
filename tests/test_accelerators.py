"""What programs hold for an accelerator: each domain's step, lowered for CUDA on a CPU.

Calls of the host, numbers of 64 bits and shapes that change are slow there or
impossible, and XLA's CPU accepts them all.
"""

import collections
import re
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import pytest

from ncgn_jax.config import apply_overrides, load_config
from ncgn_jax.domains import make_task, validate
from ncgn_jax.graphs.sorting import argsort_floats
from ncgn_jax.loop import TrainingSteps, init_state
from ncgn_jax.run.optimizer import make_optimizer

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
STEPS = {
    "modelnet": ["data.source=primitives", "data.num_points=32", "data.num_train=32",
                 "model.num_layers=1", "process.pairing=transport",
                 "process.pairing_leaf=8"],
    "turing": ["data.num_train=8", "data.num_test=4", "train.batch_size=32"],
    "digits": ["model.num_layers=1", "train.batch_size=16"],
    "molecules": ["data.source=sample", "autoencoder.width=8", "model.num_layers=1"],
}  # fmt: skip


def lowered_for_cuda(function, *arguments) -> collections.Counter:
    """Counts the operations of a program, `<operation>` and `call <target>`."""
    exported = jax.export.export(jax.jit(function), platforms=["cuda"])(*arguments)
    text = exported.mlir_module()
    found = collections.Counter(re.findall(r"(?:stablehlo|chlo)\.(\w+)", text))
    # Calls of mhlo are operations of the compiler's own.
    calls = re.findall(r"custom_call @(?!mhlo\.)(\w+)", text)
    found.update(f"call {name}" for name in calls)
    found["float64"] = len(re.findall(r"f64>", text))
    found["changing shape"] = len(re.findall(r"tensor<[^>]*\?", text))
    return found


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.thorough if name == "turing" else ())
        for name in STEPS
    ],
)
def test_training_steps_need_no_host_no_wide_numbers_and_one_shape(name):
    if name == "molecules":
        pytest.importorskip("rdkit")
    config = apply_overrides(load_config(CONFIGS / f"{name}.py"), STEPS[name])
    validate(config)
    task, tx = make_task(config), make_optimizer(config)
    steps = TrainingSteps(task, tx, config)
    state = jax.eval_shape(lambda: init_state(task, tx, config.seed))
    found = lowered_for_cuda(steps, state, steps.load(0))
    calls = [name for name in found if name.startswith("call ")]
    assert (calls, found["float64"], found["changing shape"]) == ([], 0, 0)
    assert found["dot_general"] > 10


def test_faults_are_seen():
    def ask_the_host(x):
        return jax.pure_callback(lambda x: x, x, x)

    with pytest.raises(ValueError, match="platform"):
        lowered_for_cuda(ask_the_host, 1.0)
    solved = lowered_for_cuda(jnp.linalg.qr, jnp.eye(3))
    assert any(name.startswith("call ") for name in solved)
    with jax.enable_x64(True):
        assert lowered_for_cuda(lambda x: x + 1, jnp.zeros(3, "float64"))["float64"]


def test_pairs_are_sorted_in_one_pass_where_that_is_as_fast():
    values = jnp.zeros((4, 30))
    assert lowered_for_cuda(argsort_floats, values)["sort"] == 1
    text = jax.jit(argsort_floats).lower(values).as_text()
    assert len(re.findall(r"stablehlo\.sort", text)) == 2
