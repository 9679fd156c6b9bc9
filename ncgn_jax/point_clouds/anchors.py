"""Makes sets of clouds with a known meaning, to compare a model's metrics with.

They show the values of untrained noise (`noise`), of total collapse (`origin`) and of
real data, the floor (`train`, `held_out`).

Example:
  >>> import numpy as np
  >>> real = np.random.default_rng(0).uniform(-1, 1, size=(20, 30, 3))
  >>> sets = make_anchor_sets(real[:10], real[10:], num_clouds=5, seed=0)
  >>> {name: len(clouds) for name, clouds in sets.items()}
  {'noise': 5, 'origin': 5, 'train': 5, 'held_out': 5}
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncgn_jax.data.batches import split_reference

ANCHOR_NAMES = ("noise", "origin", "train", "held_out")

# So many clouds have two halves of two.
_LEAST_HALVED = 4


def make_anchor_sets(
    train: ArrayLike,
    test: ArrayLike,
    *,
    num_clouds: int,
    seed: int,
) -> dict[str, NDArray]:
    """Builds the anchor sets, each as large as the set that a model generated.

    - `noise`: N(0, 1) points, as from an untrained sampler; the published "random" row
      for clouds inside +-0.25.
    - `origin`: every point at the origin.
    - `train`: random training clouds without replacement. It is **the floor**, compared
      with the whole test set like a model's row.
    - `held_out`: the second half of the test set. Compare it with the first half alone
      (`split_reference`, same seed), and its values with rows of that size. Fewer than
      four test clouds have no halves to compare, and no such set.

    Args:
      train: Training clouds in the scaling the metrics use, [R, N, D].
      test: Test clouds in the same scaling, [T, N, D].
      num_clouds: Largest size; `train` and `held_out` are smaller if the data are.
      seed: Seed of all draws.

    Returns:
      Clouds by name, [<= num_clouds, N, D].

    Raises:
      ValueError: If shapes differ or num_clouds < 1.
    """
    train, test = np.asarray(train), np.asarray(test)
    if train.ndim != 3 or train.shape[1:] != test.shape[1:]:
        raise ValueError(f"train is {train.shape} but test is {test.shape}")
    if num_clouds < 1:
        raise ValueError(f"num_clouds is {num_clouds}; it must be at least 1")
    rng = np.random.default_rng(seed)
    shape = (num_clouds, *test.shape[1:])
    sets = {
        "noise": rng.standard_normal(shape, np.float32),
        "origin": np.zeros(shape, np.float32),
        "train": train[rng.permutation(len(train))[:num_clouds]],
    }
    if len(test) >= _LEAST_HALVED:
        sets["held_out"] = split_reference(test, seed)[1][:num_clouds]
    return sets
