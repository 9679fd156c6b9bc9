"""What an image model costs: multiply-adds, by XLA's own count.

Pairs of attending tokens are a small part of it: linear layers grow with the number of
tokens, so that patches of half the side cost four times as much. Models are compared
at equal multiply-adds, not at equal steps.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.metrics.table import Column

COST_COLUMNS = (
    Column("train_tmac", "train TMAC", 1, 3, "10^12 multiply-adds of the training"),
    Column("sample_mmac", "sample MMAC", 1, 1, "10^6 multiply-adds of one sample"),
)


def count_macs(task: Any, with_gradient: bool) -> np.ndarray:
    """Counts multiply-adds of one image in each noise bucket.

    Half of the floating-point operations that XLA counts before it optimises.

    Args:
      task: A `tasks.images.ImageTask`.
      with_gradient: Of the gradient in the parameters, as in a training step, or of
        the network alone.

    Returns:
      Multiply-adds, [bucket].
    """
    shapes = jax.eval_shape(task.init, jax.random.key(0))[0]
    x = jax.ShapeDtypeStruct((1, *task.dataset.image_shape), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    counts = []
    for bucket in task.time.buckets:

        def apply(params, x, t, label, bucket=bucket):
            return task.predict(params, bucket, x, t, label)

        def total(*args, apply=apply):
            return jnp.sum(apply(*args) ** 2)

        program = jax.jit(jax.grad(total) if with_gradient else apply)
        counts.append(program.lower(shapes, x, t, label).cost_analysis()["flops"] / 2)
    return np.asarray(counts)


def mean_step_macs(task: Any) -> float:
    """Counts multiply-adds of a training step, the mean over noise buckets.

    Args:
      task: A `tasks.images.ImageTask`.
    """
    per_step = task.images_a_step * count_macs(task, with_gradient=True)
    return float(task.shares @ per_step)


def training_and_sampling_costs(task: Any, num_steps: int) -> dict[str, float]:
    """Counts multiply-adds of a training and of one sample.

    Args:
      task: A `tasks.images.ImageTask`.
      num_steps: Training steps.

    Returns:
      `train_tmac`, in 10^12, of all images of all steps; `sample_mmac`, in 10^6, with
      guidance where there is any.
    """
    visits = np.bincount(
        task.bucket_of_step(np.arange(num_steps)), minlength=len(task.time.buckets)
    )
    images = visits * task.images_a_step
    a_step = (2 if task.config.sample.sampler == "heun" else 1) * (1 + task.is_guided)
    sampled = sum(
        task.forward_macs[bucket] * (len(times) - 1)
        for bucket, _, times in task.stretches(task.config.seed)
    )
    return {
        "train_tmac": float(images @ count_macs(task, with_gradient=True)) / 1e12,
        "sample_mmac": float(sampled) * a_step / 1e6,
    }


def describe_patches(task: Any) -> str:
    """Says in a line which patches are used when, and what they cost.

    Args:
      task: A `tasks.images.ImageTask`.
    """
    dmp = task.config.dmp
    parts = [
        f"{b.patch} x {b.patch} ({b.num_supernodes} tokens, window {b.window}, "
        f"{share:.0%} of the steps, {macs / 1e6:.1f} MMAC)"
        for b, share, macs in zip(
            task.time.buckets, task.shares, task.forward_macs, strict=True
        )
    ]
    how = "drawn at random" if dmp.random_buckets else f"{dmp.schedule} schedule"
    if dmp.reverse_schedule:
        how += ", reversed"
    return (
        f"patches: {how}; from noise to data {', '.join(parts)}; mean "
        f"{float(task.shares @ task.forward_macs) / 1e6:.1f} MMAC"
    )
