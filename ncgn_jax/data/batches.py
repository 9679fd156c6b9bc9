"""Chooses batches by pure functions of (seed, step), so that there is nothing to save.

>>> batch_indices(num_examples=5, batch_size=3, step=0, seed=0).shape
(3,)
"""

import functools

import numpy as np
from numpy.typing import ArrayLike

_ORDER, _SUBSET = 0, 1  # separate streams of randomness


def batch_indices(
    num_examples: int, batch_size: int, step: int, seed: int
) -> np.ndarray:
    """Chooses the examples of one batch; every epoch visits each exactly once.

    Epochs, each shuffled by (seed, epoch), follow each other in one endless row. Step s
    takes `batch_size` places from s * batch_size on. A batch may span epochs, and may
    be larger than the set.

    Args:
      num_examples: Size of the set.
      batch_size: Examples per batch.
      step: Training step, >= 0.
      seed: Seed of the order, >= 0.

    Returns:
      Indices, int64 [batch_size].

    Raises:
      ValueError: If a size is not positive or the step is negative.
    """
    if num_examples < 1 or batch_size < 1 or step < 0:
        raise ValueError(
            f"num_examples={num_examples}, batch_size={batch_size}, step={step}; "
            "allowed: >= 1, >= 1, >= 0"
        )
    place = int(step) * batch_size + np.arange(batch_size, dtype=np.int64)
    epoch, within = np.divmod(place, num_examples)
    indices = np.empty(batch_size, np.int64)
    for number in np.unique(epoch):
        chosen = epoch == number
        indices[chosen] = _shuffle(num_examples, seed, int(number))[within[chosen]]
    return indices


@functools.lru_cache(maxsize=4)
def _shuffle(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng([seed, _ORDER, epoch]).permutation(num_examples)
    order.flags.writeable = False
    return order


def take_batch(
    dataset_array: np.ndarray,
    labels: np.ndarray | None,
    step: int,
    batch_size: int,
    seed: int,
    num_points: int | None = None,
    rows: slice = slice(None),
) -> dict[str, np.ndarray]:
    """Gathers the batch of one step.

    Args:
      dataset_array: Examples, [example, ...]; clouds are [example, stored_point, dim].
      labels: Class of each example, [example], or None.
      step: Training step.
      batch_size: Examples in the whole batch, over all hosts.
      seed: Seed of order and draws.
      num_points: Number of points to draw from each cloud without replacement, by
        (seed, step), in no particular order; None takes all as stored.
      rows: Rows of the batch to gather, for one of several hosts. The rows of all hosts
        together are exactly the whole batch.

    Returns:
      `data` [rows, num_points, dim] in the dtype of the set, `index` int64 [rows], and
      `label` int32 [rows] if there are labels.

    Raises:
      ValueError: If `num_points` exceeds the stored points, or as `batch_indices`.
    """
    index = batch_indices(len(dataset_array), batch_size, step, seed)[rows]
    if num_points is not None and num_points > dataset_array.shape[1]:
        raise ValueError(
            f"num_points={num_points}; allowed: <= {dataset_array.shape[1]} stored"
        )
    if num_points is not None and num_points < dataset_array.shape[1]:
        rng = np.random.default_rng([seed, _SUBSET, step])
        keys = rng.random((batch_size, dataset_array.shape[1]), dtype=np.float32)
        kept = keys[rows].argpartition(num_points - 1, axis=1)[:, :num_points]
        data = dataset_array[index[:, None], kept]
    else:
        data = dataset_array[index]
    batch = {"data": data, "index": index}
    if labels is not None:
        batch["label"] = labels[index].astype(np.int32)
    return batch


def split_reference(test: ArrayLike, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits test examples at random into two halves, the same for equal seeds.

    Args:
      test: Test examples, [T, ...] with T > 1.
      seed: Seed of the split.

    Returns:
      The half to compare with (`reference`), and the half to compare (`held_out`),
      each [T // 2, ...]; an odd one is left out.

    Raises:
      ValueError: If there are fewer than two examples.
    """
    test = np.asarray(test)
    half = len(test) // 2
    if half < 1:
        raise ValueError(f"cannot split {len(test)} examples into two halves")
    # A stream of its own, so that the split does not follow other draws of a table.
    order = np.random.default_rng([seed, 1]).permutation(len(test))
    return test[order[:half]], test[order[half : 2 * half]]
