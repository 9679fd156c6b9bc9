"""Counts what an image model costs: multiply-adds, by XLA's own count.

Pairs of attending tokens are a small part of it: linear layers grow with the number of
tokens, so that patches of half the side cost four times as much. Models are compared
at equal multiply-adds, not at equal steps.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax.images.model import ImageModel
from ncgn_jax.metrics.table import Column
from ncgn_jax.tasks.sampling import Sampling, Stretch

COST_COLUMNS = (
    Column("train_tmac", "train TMAC", 1, 3, "10^12 multiply-adds of the training"),
    Column("sample_mmac", "sample MMAC", 1, 1, "10^6 multiply-adds of one sample"),
)


def count_macs(model: ImageModel, *, with_gradient: bool) -> np.ndarray:
    """Counts multiply-adds of one image in each noise bucket.

    Half of the floating-point operations that XLA counts before it optimises.

    Args:
      model: The model.
      with_gradient: Whether to count the gradient in the parameters too, as in a
        training step, or the network alone.

    Returns:
      Multiply-adds, [bucket].
    """
    shapes = jax.eval_shape(model.init, jax.random.key(0))[0]
    x = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    counts = []
    for bucket in model.time.buckets:

        def apply(params, x, t, label, bucket=bucket):
            return model.predict(params, bucket, x, t, label)

        def total(*args, apply=apply):
            return jnp.sum(apply(*args) ** 2)

        program = jax.jit(jax.grad(total) if with_gradient else apply)
        counted: Any = program.lower(shapes, x, t, label).cost_analysis()
        counts.append(counted["flops"] / 2)
    return np.asarray(counts)


def training_macs(visits: np.ndarray, images: np.ndarray, macs: np.ndarray) -> float:
    """Counts multiply-adds of training.

    Args:
      visits: Steps of each bucket, [bucket].
      images: Images of a step of each bucket, [bucket].
      macs: Multiply-adds of an image with its gradient, [bucket].
    """
    return float(visits * images @ macs)


def sampling_macs(
    model: ImageModel,
    stretches: Sequence[Stretch],
    sampling: Sampling,
    macs: np.ndarray,
) -> float:
    """Counts multiply-adds of one sample, with guidance where there is any.

    Args:
      model: The model.
      stretches: The sampler's stretches.
      sampling: The sampler's settings.
      macs: Multiply-adds of an image through the network, [bucket].
    """
    evaluations = 2 if sampling.sampler == "heun" else 1
    if model.num_classes and sampling.guidance:
        evaluations *= 2
    once = sum(
        float(macs[bucket]) * (len(times) - 1)
        for bucket, _, times in stretches
        if bucket is not None
    )
    return once * evaluations


def describe_patches(
    model: ImageModel, macs: np.ndarray, schedule: str, *, reverse: bool
) -> str:
    """Describes in a line which patches are used when, and what they cost.

    Args:
      model: The model.
      macs: Multiply-adds of an image through the network, [bucket].
      schedule: Name of the range/resolution schedule.
      reverse: Whether it is reversed.
    """
    parts = [
        f"{b.patch} x {b.patch} ({b.num_supernodes} tokens, window {b.window}, "
        f"{share:.0%} of the steps, {count / 1e6:.1f} MMAC)"
        for b, share, count in zip(model.time.buckets, model.shares, macs, strict=True)
    ]
    how = "drawn at random" if model.time.random_buckets else f"{schedule} schedule"
    if reverse:
        how += ", reversed"
    return (
        f"patches: {how}; from noise to data {', '.join(parts)}; mean "
        f"{float(model.shares @ macs) / 1e6:.1f} MMAC"
    )
