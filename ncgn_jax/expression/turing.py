"""Simulates the Turing system of digit formation: three genes on a line.

Sox9, Bmp and Wnt react and diffuse (Raspopovic et al. 2014). A stationary wave of
expression grows from a small random start. The transcriptomics experiments of
arXiv 2507.09391 learn the joint distribution of all three at ten times and places.

    d Sox9 / dt = Bmp - Wnt - Sox9^3
    d Bmp  / dt = 1.27 Sox9 - 0.1 Bmp +       d^2 Bmp / ds^2
    d Wnt  / dt = 1.59 Sox9 - 0.1 Wnt + 2.5   d^2 Wnt / ds^2

by explicit Euler steps. After each, the two end points copy their inner neighbours, so
that nothing flows out. Time 0 of the published sets is the state after the first step,
see `TuringSystem.lead_steps`.

>>> fields = simulate(4, TRAIN_TIMES, TRAIN_PLACES, seed=0, knocked_out="Wnt")
>>> fields.shape, bool((fields[..., GENES.index("Wnt")] == 0).all())
((4, 10, 10, 3), True)
>>> normaliser = TimeNormaliser.fit(fields, TRAIN_TIMES)
>>> float(normaliser.apply(fields, TRAIN_TIMES).max())
1.0
"""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ncgn_jax.data.cache import cached_arrays
from ncgn_jax.faults import DataError

GENES = ("Sox9", "Bmp", "Wnt")

# Times and places of the published sets.
TRAIN_TIMES = tuple(10.0 * index for index in range(10))
TRAIN_PLACES = tuple(6.0 * index for index in range(10))
TEST_TIMES = tuple(12.5 * index for index in range(8))
TEST_PLACES = tuple(5.0 * index for index in range(12))

# Raise it when the same settings give other numbers, so that caches are made anew.
SIMULATOR_VERSION = 1

_Gene = str | int | None
Knockouts = _Gene | Sequence[_Gene] | np.ndarray


@dataclasses.dataclass(frozen=True)
class TuringSystem:
    """Coefficients, grid and start of the simulation.

    dx_i/dt = sum_j reaction_ij x_j - cubic_decay_i x_i^3 + diffusion_i d^2 x_i / ds^2

    Attributes:
      reaction: Effect of gene j (column) on gene i (row), order of `GENES`.
      cubic_decay: Saturation of each gene.
      diffusion: Diffusion coefficient of each gene, >= 0.
      length: Length of the line; the grid holds 0, ds, 2 ds, ... below it.
      ds: Distance between grid points.
      duration: Last time that can be simulated.
      dt: Time step.
      start_half_width: Half-width of the uniform distribution of the start, which is
        independent for every gene and grid point.
      lead_steps: Steps before time 0; 1 in the published sets, 0 to keep the start.

    Raises:
      DataError: If a number is out of its range or the step is unstable.
    """

    reaction: tuple[tuple[float, ...], ...] = (
        (0.0, 1.0, -1.0),
        (1.27, -0.1, 0.0),
        (1.59, 0.0, -0.1),
    )
    cubic_decay: tuple[float, ...] = (1.0, 0.0, 0.0)
    diffusion: tuple[float, ...] = (0.0, 1.0, 2.5)
    length: float = 60.0
    ds: float = 0.2
    duration: float = 100.0
    dt: float = 0.005
    start_half_width: float = 0.01
    lead_steps: int = 1

    def __post_init__(self) -> None:
        num = len(GENES)
        shapes = {"reaction": (num, num), "cubic_decay": (num,), "diffusion": (num,)}
        for name, shape in shapes.items():
            values = np.asarray(getattr(self, name), np.float64)
            if values.shape != shape or not np.isfinite(values).all():
                raise DataError(f"{name}={values}; allowed: {shape} finite numbers")
            # Tuples make a system hashable, as static arguments must be.
            rows = values.tolist()
            as_tuples = tuple(map(tuple, rows) if values.ndim == 2 else rows)
            object.__setattr__(self, name, as_tuples)
        for name in ("length", "ds", "duration", "dt"):
            if not 0 < getattr(self, name) < math.inf:
                raise DataError(f"{name}={getattr(self, name)}; allowed: > 0")
        for name in ("diffusion", "start_half_width", "lead_steps"):
            if not 0 <= np.min(getattr(self, name)) < math.inf:
                raise DataError(f"{name}={getattr(self, name)}; allowed: >= 0")
        if self.num_places < 3:
            raise DataError(
                f"length={self.length}, ds={self.ds}; allowed: length > 2 * ds"
            )
        if self.dt >= self.largest_dt * (1 - 1e-9):  # or equal up to rounding
            raise DataError(
                f"dt={self.dt} is unstable with ds={self.ds} and diffusion up to "
                f"{max(self.diffusion)}; allowed: dt < ds^2 / (2 * diffusion) = "
                f"{self.largest_dt:.6g}"
            )

    @property
    def num_places(self) -> int:
        """Returns the number of multiples of ds in [0, length)."""
        return math.ceil(self.length / self.ds - 1e-9)

    @property
    def largest_dt(self) -> float:
        """Returns the bound on dt below which diffusion alone is stable."""
        fastest = max(self.diffusion)
        return self.ds**2 / (2 * fastest) if fastest else math.inf


def simulate(
    num_simulations: int,
    times: Sequence[float],
    places: Sequence[float],
    seed: int | Sequence[int],
    *,
    knocked_out: Knockouts = None,
    system: TuringSystem | None = None,
    dtype: str = "float32",
    chunk: int = 64,
) -> np.ndarray:
    """Simulates from random starts and keeps the given times and places.

    Simulation i depends on `seed` and i alone, up to rounding, which may differ with
    the chunk.

    Args:
      num_simulations: Independent simulations, >= 1.
      times: Multiples of `system.dt` in [0, duration], any order.
      places: Multiples of `system.ds` in [0, length).
      seed: Seed of the starts, as for `numpy.random.default_rng`.
      knocked_out: Gene held at 0 throughout, by name or index; one for all
        simulations, or one for each, where None and -1 mean no gene.
      system: Coefficients and grid; None for the published ones.
      dtype: Precision of the simulation, "float32" or "float64".
      chunk: Simulations advanced together; the state of 64 fits a core's cache.

    Returns:
      Expression, [simulation, time, place, gene], genes in the order of `GENES`.

    Raises:
      DataError: As `evolve`, or if `num_simulations` or `dtype` is not allowed.
    """
    system = system or TuringSystem()
    if num_simulations < 1:
        raise DataError(f"num_simulations={num_simulations}; allowed: >= 1")
    if str(dtype) not in ("float32", "float64"):
        raise DataError(f"dtype={dtype!r}; allowed: 'float32', 'float64'")
    half_width = system.start_half_width
    shape = (num_simulations, system.num_places, len(GENES))
    start = np.random.default_rng(seed).uniform(-half_width, half_width, shape)
    return evolve(
        start.astype(dtype),
        times,
        places,
        knocked_out=knocked_out,
        system=system,
        chunk=chunk,
    )


def evolve(
    start: np.ndarray,
    times: Sequence[float],
    places: Sequence[float],
    *,
    knocked_out: Knockouts = None,
    system: TuringSystem | None = None,
    chunk: int = 64,
) -> np.ndarray:
    """Advances given starts by Euler steps and keeps the given times and places.

    x_i <- x_i + dt (sum_j reaction_ij x_j - cubic_decay_i x_i^3
                     + diffusion_i (x_i[s - ds] - 2 x_i[s] + x_i[s + ds]) / ds^2)
    inside; then the ends copy their inner neighbours, as in the module docstring.

    Args:
      start: [simulation, grid point, gene]; computed in float64 if it is float64, else
        in float32.
      times: As `simulate`.
      places: As `simulate`.
      knocked_out: As `simulate`; the gene's start is set to 0 as well.
      system: As `simulate`.
      chunk: As `simulate`.

    Returns:
      Expression, [simulation, time, place, gene], in the precision of the start.

    Raises:
      DataError: If a time or place is off the grid, a gene does not exist, the start
        has another shape, or a simulation grows without bound.
    """
    system = system or TuringSystem()
    start = np.asarray(start)
    expected = (*start.shape[:1], system.num_places, len(GENES))
    if start.shape != expected or 0 in expected or chunk < 1:
        raise DataError(
            f"start of shape {start.shape}, chunk={chunk}; allowed: [simulation, "
            f"{expected[-2]} grid points, {expected[-1]} genes], chunk >= 1"
        )
    num_times = round(system.duration / system.dt) + 1
    steps = _grid_indices(times, system.dt, num_times, "times") + system.lead_steps
    kept = _grid_indices(places, system.ds, system.num_places, "places")
    genes = _knockout_indices(knocked_out, len(start))
    present = genes[:, None, None] != np.arange(len(GENES))  # [simulation, 1, gene]
    reached, order = np.unique(steps, return_inverse=True)
    gaps = np.diff(reached, prepend=0).astype(np.int32)
    fields = _advance_in_chunks(start, present, gaps, kept, system, chunk)
    if not np.isfinite(fields).all():
        simulation, time = np.argwhere(~np.isfinite(fields))[0, :2]
        raise DataError(
            f"simulation {simulation} has grown without bound before time "
            f"{(reached[time] - system.lead_steps) * system.dt:g}; take a smaller "
            f"dt than {system.dt} or a smaller start"
        )
    return fields[:, order]


def _advance_in_chunks(
    start: np.ndarray,
    present: np.ndarray,
    gaps: np.ndarray,
    kept: np.ndarray,
    system: TuringSystem,
    chunk: int,
) -> np.ndarray:
    """Runs `_advance` over chunks and returns [simulation, time, place, gene]."""
    dtype = np.float64 if start.dtype == np.float64 else np.float32
    fields = np.empty((len(start), len(gaps), len(kept), len(GENES)), dtype)
    chunk = min(chunk, len(start))
    for first in range(0, len(start), chunk):
        part = slice(first, first + chunk)
        # The last chunk is padded, so that all chunks share one compilation.
        padding = ((0, chunk - len(start[part])), (0, 0), (0, 0))
        state = np.pad(start[part] * present[part], padding).astype(dtype)
        alive = np.pad(present[part], padding)
        # Set for float32 too, so that results do not depend on the session.
        with jax.enable_x64(dtype == np.float64):
            saved = _advance(state.T, alive.T, gaps, kept, system)
        fields[part] = np.asarray(saved).transpose(3, 0, 2, 1)[: len(start[part])]
    return fields


@functools.partial(jax.jit, static_argnames="system")
def _advance(
    start: jax.Array,
    alive: jax.Array,
    gaps: jax.Array,
    kept: jax.Array,
    system: TuringSystem,
) -> jax.Array:
    """Returns the kept places after every gap, [time, gene, place, simulation].

    Simulations lie along the last axis, so that neighbours in place are whole rows and
    a step is a few vector loops without shuffles.
    """

    def step(_: jax.Array, state: jax.Array) -> jax.Array:
        return jnp.where(alive, _euler_step(state, system), 0)

    def until_next(state: jax.Array, gap: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = jax.lax.fori_loop(0, gap, step, state)
        return state, state[:, kept]

    return jax.lax.scan(until_next, start, gaps)[1]


def _euler_step(state: jax.Array, system: TuringSystem) -> jax.Array:
    """Advances [gene, grid point, simulation] by one step."""
    inner = state[:, 1:-1]
    bend = (state[:, :-2] - 2 * inner + state[:, 2:]) / system.ds**2
    advanced = []
    for gene, effects in enumerate(system.reaction):
        rate = system.diffusion[gene] * bend[gene]
        rate -= system.cubic_decay[gene] * inner[gene] ** 3
        for other, effect in enumerate(effects):
            rate += effect * inner[other]
        advanced.append(inner[gene] + system.dt * rate)
    inner = jnp.stack(advanced)
    return jnp.concatenate([inner[:, :1], inner, inner[:, -1:]], axis=1)


def _grid_indices(values: ArrayLike, step: float, count: int, name: str) -> np.ndarray:
    """Returns int32 indices of values on the grid 0, step, ..., (count - 1) * step."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise DataError(f"{name} of shape {values.shape}; allowed: a list of numbers")
    nearest = np.clip(np.rint(values / step), 0, count - 1)
    # The tolerance admits times and places that were rounded to float32.
    off = ~(np.abs(values - nearest * step) <= 1e-6 * np.maximum(1, np.abs(values)))
    if off.any():
        raise DataError(
            f"{name}: {values[off][0]:g} is not on the grid; nearest allowed: "
            f"{nearest[off][0] * step:g} (multiples of {step:g} from 0 to "
            f"{(count - 1) * step:g})"
        )
    return nearest.astype(np.int32)


def _knockout_indices(knocked_out: Knockouts, num_simulations: int) -> np.ndarray:
    """Returns the int32 index of the gene held at 0 in each simulation, -1 for none."""
    if knocked_out is None or isinstance(knocked_out, str | int | np.integer):
        knocked_out = [knocked_out] * num_simulations
    if len(knocked_out) != num_simulations:
        raise DataError(
            f"knocked_out: {len(knocked_out)} entries for {num_simulations} simulations"
        )
    index: dict[_Gene, int] = {None: -1, -1: -1}
    for number, name in enumerate(GENES):
        index |= {number: number, name: number}
    for gene in knocked_out:
        if gene not in index:
            raise DataError(
                f"knocked_out: no gene {gene!r}; allowed: {', '.join(GENES)} or their "
                f"indices 0 to {len(GENES) - 1}, None or -1 for no gene"
            )
    return np.array([index[gene] for gene in knocked_out], np.int32)


def turing_sets(
    num_train: int,
    num_test: int,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    system: TuringSystem | None = None,
    test_grid: tuple[Sequence[float], Sequence[float]] = (TEST_TIMES, TEST_PLACES),
) -> dict[str, np.ndarray]:
    """Makes the sets of the transcriptomics experiments, in raw expression.

    The four parts come from independent streams of one seed. `simulate(num_train,
    times, places, [seed, 1])` returns the training simulations at other times.

    Args:
      num_train: Training simulations.
      num_test: Test simulations, and simulations with one gene held at 0.
      seed: Seed of all parts, >= 0.
      cache_dir: Folder that keeps the sets as .npz; None to keep nothing.
      system: Coefficients and grid; None for the published ones.
      test_grid: Times and places of `test` and `knockout`, any number of them.

    Returns:
      `train` [n, 10, 10, 3] at `TRAIN_TIMES` and `TRAIN_PLACES`; `test` and
      `knockout` [n, time, place, 3] at the test grid, all float32; `knocked_out_gene`
      int32 [n], uniform on the genes.

    Raises:
      DataError: As `simulate`.
    """
    system = system or TuringSystem()
    counts = [num_train, num_test]
    if min(counts) < 1:  # before the slow part
        raise DataError(f"numbers of simulations {counts}; allowed: >= 1")
    settings = {
        "num_simulations": counts,
        "seed": seed,
        "system": dataclasses.asdict(system),
        "test_grid": [list(map(float, axis)) for axis in test_grid],
        "version": SIMULATOR_VERSION,
    }

    def build() -> dict[str, np.ndarray]:
        choose = np.random.default_rng([seed, 4])
        genes = choose.integers(0, len(GENES), num_test).astype(np.int32)
        make = functools.partial(simulate, system=system)
        return {
            "train": make(num_train, TRAIN_TIMES, TRAIN_PLACES, [seed, 1]),
            "test": make(num_test, *test_grid, [seed, 2]),
            "knockout": make(num_test, *test_grid, [seed, 3], knocked_out=genes),
            "knocked_out_gene": genes,
        }

    return cached_arrays(cache_dir, "turing", settings, build)


@dataclasses.dataclass(frozen=True)
class TimeNormaliser:
    """Maps expression to [0, 1] by the smallest and largest value at every time.

    x' = (x - low(t)) / (high(t) - low(t)), as in the published experiments, with one
    pair of bounds for all genes and places. The bounds are interpolated linearly
    between the fitted times and constant outside.

    Attributes:
      times: Fitted times, increasing, [time].
      low: Smallest value at each, [time].
      high: Largest value at each, [time].
    """

    times: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def fit(cls, fields: np.ndarray, times: Sequence[float]) -> "TimeNormaliser":
        """Takes the bounds over simulations, places and genes.

        Args:
          fields: Training expression, [simulation, time, place, gene].
          times: Its times, strictly increasing.

        Raises:
          DataError: If times and fields do not match, times do not increase, or all
            values at a time are equal or not finite.
        """
        fitted = _check_times(fields, times)
        if (np.diff(fitted) <= 0).any():
            raise DataError(f"times {fitted}; allowed: strictly increasing")
        low = fields.min(axis=(0, 2, 3)).astype(np.float64)
        high = fields.max(axis=(0, 2, 3)).astype(np.float64)
        for time, width in zip(fitted, high - low, strict=True):
            if not 0 < width < math.inf:
                raise DataError(f"values at time {time:g} span {width}; allowed: > 0")
        return cls(fitted, low, high)

    def apply(self, fields: np.ndarray, times: Sequence[float]) -> np.ndarray:
        """Normalises fields of the given times.

        Args:
          fields: Expression, [..., time, place, gene].
          times: Its times, in any order.

        Returns:
          The same shape, in [0, 1] for the fitted fields and near it for others.

        Raises:
          DataError: If times and fields do not match.
        """
        asked = _check_times(fields, times)
        low = np.interp(asked, self.times, self.low)[:, None, None]
        high = np.interp(asked, self.times, self.high)[:, None, None]
        dtype = np.result_type(fields.dtype, np.float32)
        return (fields - low.astype(dtype)) / (high - low).astype(dtype)


def _check_times(fields: np.ndarray, times: Sequence[float]) -> np.ndarray:
    numbers = np.asarray(times, np.float64)
    if fields.ndim < 3 or numbers.shape != fields.shape[-3:-2]:
        raise DataError(
            f"fields of shape {fields.shape} for {numbers.size} times; allowed: "
            "[..., time, place, gene]"
        )
    return numbers
