"""The loss and the gradient of a configuration's first step on the devices at hand.

Run with one device: python -m tests.first_step CONFIG OUT.npz [FIELD=VALUE ...]
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import optax

from ncgn_jax import parallel
from ncgn_jax.config import apply_overrides, load_config
from ncgn_jax.domains import make_task, validate
from ncgn_jax.loop import init_state, make_train_step


def first_step(path: Path, overrides: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns loss, loss of each bucket and gradients of a first step."""
    config = apply_overrides(load_config(path), overrides)
    validate(config)
    task = make_task(config)
    # Plain gradient descent of rate one: the update is the gradient.
    tx = optax.sgd(1.0)
    step = parallel.data_parallel(make_train_step(task, tx, config))
    state = init_state(task, tx, 0)
    # Off the zeros that some layers start from, which would hide gradients.
    moved = jax.tree.map(lambda p: np.asarray(p) + np.float32(0.02), state.params)
    state = parallel.replicate(state.replace(params=moved))
    rows = slice(0, config.train.batch_size)
    batch = parallel.put_batch(task.batch(0, rows))
    state, metrics = step(state, batch, jax.random.key(1))
    grads = jax.tree.map(lambda a, b: (a - np.asarray(b)).ravel(), moved, state.params)
    return {
        "loss": np.asarray(metrics["loss"]),
        "bucket_loss": np.asarray(metrics["bucket_loss"]),
        "grads": np.concatenate(jax.tree.leaves(grads)),
    }


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)
    np.savez(sys.argv[2], **first_step(Path(sys.argv[1]), sys.argv[3:]))
