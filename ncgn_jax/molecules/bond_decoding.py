"""Decodes bonds from the logits of their orders, by argmax or within valences.

Orders are 0 (no bond), 1, 2 and 3. `valency_aware_bonds` repairs the bonds of any
logits, those of noise too, so report the plain argmax beside it.

Example:
  >>> import numpy as np
  >>> logits = np.zeros((1, 3, 3, 4))
  >>> logits[..., 0] = 1.0  # no bond is the likeliest everywhere
  >>> atoms = np.array([[0, 1, 1]])  # C, F, F
  >>> valency_aware_bonds(logits, atoms, (4, 1))[0].tolist()
  [[0, 1, 1], [1, 0, 0], [1, 0, 0]]
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_NUM_ORDERS = 4
_CHUNK_ENTRIES = 4_000_000  # logits decoded at once


def argmax_bonds(bond_logits: ArrayLike, atom_mask: ArrayLike) -> NDArray[np.int64]:
    """Returns the likeliest order of every pair, without regard to valences.

    Args:
      bond_logits: Logits of orders 0 to 3, [molecule, atom, atom, order]; the two
        directions of a pair are averaged.
      atom_mask: True at real atoms, [molecule, atom].

    Returns:
      Orders, [molecule, atom, atom], symmetric; 0 on the diagonal and at padding.

    Raises:
      ValueError: If shapes do not fit or a logit of a real pair is not finite.
    """
    logits, pairs = _check_logits(bond_logits, atom_mask)
    return np.where(pairs, logits.argmax(axis=-1), 0)


def valency_aware_bonds(
    bond_logits: ArrayLike,
    atoms: ArrayLike,
    max_valences: ArrayLike,
    atom_mask: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Decodes bonds within the valences that connect all atoms if possible.

    First a tree of single bonds grows by Prim's rule (1957) from the best pair, on the
    log-odds log(e^l1 + e^l2 + e^l3) - l0. It is the maximum spanning tree wherever no
    valence runs out. Then orders rise, new bonds included, one pair at a time, by the
    largest gain l_new - l_old > 0 for which both atoms have valence left.

    A tree of k atoms has F = sum of valences - 2 (k - 1) places left, and a new atom
    of valence v makes it F + v - 2. Monovalent atoms wait while one of them would
    take the last place and atoms that add places are left. So with n atoms, all of
    valence 1 or more, the molecule is connected if and only if the valences sum to
    2 (n - 1) or more, which any tree needs; else it has n - floor(sum / 2) fragments,
    the fewest possible. Atoms of valence 0 stay alone. Permuting the atoms permutes
    the bonds, unless logits tie.

    Args:
      bond_logits: Logits of orders 0 to 3, [molecule, atom, atom, order]; the two
        directions of a pair are averaged.
      atoms: Class of every atom, [molecule, atom], -1 = padding.
      max_valences: Largest sum of bond orders, [class].
      atom_mask: True at real atoms, [molecule, atom]; `atoms >= 0` if None.

    Returns:
      Orders, [molecule, atom, atom], symmetric; 0 on the diagonal and at padding.

    Raises:
      ValueError: If shapes do not fit, a logit of a real pair is not finite or a
        class has no valence.
    """
    atoms, valences = np.asarray(atoms), np.asarray(max_valences)
    mask = atoms >= 0 if atom_mask is None else np.asarray(atom_mask, bool)
    if mask.shape != atoms.shape:
        raise ValueError(f"atoms are {atoms.shape}, their mask is {mask.shape}")
    logits, pairs = _check_logits(bond_logits, mask)
    known = atoms[mask]
    if known.size and not (known.min() >= 0 and known.max() < len(valences)):
        raise ValueError(
            f"atoms have classes {known.min()} to {known.max()}, but "
            f"{len(valences)} valences are given"
        )
    free = np.where(mask, valences[np.where(mask, atoms, 0)], 0).astype(np.int64)
    bonds = np.zeros(pairs.shape, np.int64)
    size = max(1, _CHUNK_ENTRIES // max(1, logits[:1].size))
    for start in range(0, len(atoms), size):
        chunk = slice(start, start + size)
        _grow_trees(bonds[chunk], free[chunk], _log_odds(logits[chunk]))
        _raise_orders(bonds[chunk], free[chunk], logits[chunk], pairs[chunk])
    return bonds


def _check_logits(
    bond_logits: ArrayLike, atom_mask: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Returns symmetric logits, 0 elsewhere, and the pairs of two real atoms."""
    logits, mask = np.asarray(bond_logits, np.float64), np.asarray(atom_mask, bool)
    if mask.ndim != 2 or logits.shape != (*mask.shape, mask.shape[1], _NUM_ORDERS):
        raise ValueError(
            "logits must be [molecule, atom, atom, order 0 to 3] and the mask "
            f"[molecule, atom]; got {logits.shape} and {mask.shape}"
        )
    pairs = mask[:, :, None] & mask[:, None, :] & ~np.eye(mask.shape[1], dtype=bool)
    logits = np.where(pairs[..., None], logits, 0.0)
    if not np.isfinite(logits).all():
        raise ValueError("a logit of a pair of atoms is not finite")
    return (logits + logits.swapaxes(1, 2)) / 2, pairs


def _log_odds(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.logaddexp.reduce(logits[..., 1:], axis=-1) - logits[..., 0]


def _grow_trees(
    bonds: NDArray[np.int64], free: NDArray[np.int64], weights: NDArray[np.float64]
) -> None:
    """Adds single bonds of a forest, in place, one per molecule at a time."""
    inside = np.zeros(free.shape, bool)  # placed; those with free valence can grow
    outside = free > 0
    others = ~np.eye(free.shape[1], dtype=bool)
    while True:
        places = np.where(inside, free, 0).sum(axis=1, keepdims=True)
        is_new = places == 0  # no tree yet, or the tree is full
        sources = np.where(is_new, outside, inside & (free > 0))
        pairs = sources[:, :, None] & outside[:, None, :] & others
        left = np.where(is_new, free, places)[:, :, None] + free[:, None, :] - 2
        waits = (outside & (free > 1)).any(axis=1)
        num_after = outside.sum(axis=1) - np.where(is_new[:, 0], 2, 1)
        must_stay_open = waits & (num_after > 0)
        pairs &= (left > 0) | ~must_stay_open[:, None, None]
        found, i, j = _best_pairs(np.where(pairs, weights, -np.inf), -np.inf)
        if not found.size:
            return
        _add_orders(bonds, free, (found, i, j), 1)
        for atom in (i, j):
            inside[found, atom], outside[found, atom] = True, False


def _raise_orders(
    bonds: NDArray[np.int64],
    free: NDArray[np.int64],
    logits: NDArray[np.float64],
    pairs: NDArray[np.bool_],
) -> None:
    """Raises orders in place, always that of the largest gain, while one is > 0."""
    active = np.arange(len(bonds))
    orders = np.arange(_NUM_ORDERS)
    pairs = np.triu(pairs)
    while active.size:
        old, room = bonds[active][..., None], free[active]
        room = np.minimum(room[:, :, None], room[:, None, :])[..., None]
        allowed = (orders > old) & (orders <= old + room) & pairs[active][..., None]
        chosen = logits[active]
        gains = chosen - np.take_along_axis(chosen, old, axis=-1)
        gains = np.where(allowed, gains, 0.0)
        found, i, j = _best_pairs(gains.max(axis=-1), 0.0)
        new = gains[found, i, j].argmax(axis=-1)
        active = active[found]
        _add_orders(bonds, free, (active, i, j), new - bonds[active, i, j])


def _best_pairs(
    values: NDArray[np.float64], threshold: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Finds the best pair of each molecule that has one above the threshold."""
    flat = values.reshape(len(values), -1)
    if not flat.size:
        return (np.zeros(0, np.intp),) * 3
    best = flat.argmax(axis=1)
    found = np.flatnonzero(flat[np.arange(len(flat)), best] > threshold)
    return found, *np.divmod(best[found], values.shape[2])


def _add_orders(
    bonds: NDArray[np.int64],
    free: NDArray[np.int64],
    where: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]],
    step: NDArray[np.int64] | int,
) -> None:
    molecule, i, j = where
    bonds[molecule, i, j] += step
    bonds[molecule, j, i] += step
    free[molecule, i] -= step
    free[molecule, j] -= step
