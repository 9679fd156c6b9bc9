"""What neighbourhood attention costs in tiles, gathered windows and a dense mask.

    python -m benchmarks.attention [--repeats=20] [--small]

Forward and backward of 8 images, 6 heads of 64 features, float32, on the grids and
windows that images of 32 x 32 tokens have at middle and low noise. The three ways
agree to rounding. Repeats are interleaved, so that all of them see the same machine:

- `tiles`: what the network uses (models/neighborhood_attention.py);
- `windows`: every query gathers its own keys and values;
- `dense`: `jax.nn.dot_product_attention` with a mask of all pairs.

Numbers are those of one device. Nothing else should run on the machine. `--small` is
a size at which to see that the script runs.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ncgn_jax import parallel
from ncgn_jax.graphs.windows import Grid, window_mask
from ncgn_jax.metrics.table import Column, Row, format_table
from ncgn_jax.models.neighborhood_attention import neighborhood_attention

Attention = Callable[[jax.Array, jax.Array, jax.Array, Grid, Grid], jax.Array]

WARM_UP = 3
CASES = (((16, 16), (5, 5)), ((32, 32), (3, 3)))
SMALL_CASES = (((6, 5), (3, 3)),)

COLUMNS = (
    Column("milliseconds", "ms", 1, 2, "median of forward and backward"),
    Column("fastest", "min ms", 1, 2, "fastest"),
    Column("slowest", "max ms", 1, 2, "slowest"),
    Column("scratch", "scratch MiB", 1, 1, "temporary memory of the program"),
)


def gathered_windows(
    query: jax.Array, key: jax.Array, value: jax.Array, grid: Grid, window: Grid
) -> jax.Array:
    """Attends to keys and values that are copied out for every query."""
    mask = window_mask(grid, window)
    seen = np.nonzero(mask)[1].reshape(len(mask), -1)  # [node, key]
    keys, values = jnp.take(key, seen, axis=1), jnp.take(value, seen, axis=1)
    logits = jnp.einsum("bnhc,bnkhc->bnhk", query, keys) / np.sqrt(query.shape[-1])
    return jnp.einsum("bnhk,bnkhc->bnhc", jax.nn.softmax(logits, axis=-1), values)


def dense_mask(
    query: jax.Array, key: jax.Array, value: jax.Array, grid: Grid, window: Grid
) -> jax.Array:
    """Attends to all nodes through a mask."""
    mask = window_mask(grid, window)[None, None]
    return jax.nn.dot_product_attention(query, key, value, mask=jnp.asarray(mask))


WAYS: dict[str, Attention] = {
    "tiles": neighborhood_attention,
    "windows": gathered_windows,
    "dense": dense_mask,
}


def measure(
    grid: Grid, window: Grid, num_images: int, heads: int, features: int, repeats: int
) -> dict[str, Row]:
    """Compiles and times all ways on one grid.

    Returns:
      A row for each way; `error` is its largest difference from `dense`, over what is
      attended to and the three gradients.
    """
    shape = (num_images, grid[0] * grid[1], heads, features)
    arrays = [
        jax.random.normal(rng, shape) for rng in jax.random.split(jax.random.key(0), 4)
    ]
    compiled = {
        name: jax.jit(functools.partial(_forward_and_backward, attend, grid, window))
        .lower(*arrays)
        .compile()
        for name, attend in WAYS.items()
    }
    results = {name: run(*arrays) for name, run in compiled.items()}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(WARM_UP + repeats):
        for name, run in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(run(*arrays))
            seconds[name].append(time.perf_counter() - began)
    rows = {}
    for name, run in compiled.items():
        times = 1e3 * np.asarray(seconds[name][WARM_UP:])
        memory = run.memory_analysis()
        rows[name] = {
            "milliseconds": float(np.median(times)),
            "fastest": float(np.min(times)),
            "slowest": float(np.max(times)),
            "scratch": memory.temp_size_in_bytes / 2**20 if memory else float("nan"),
            "error": _largest_difference(results[name], results["dense"]),
        }
    return rows


def _forward_and_backward(attend, grid, window, query, key, value, cotangent):
    out, pull_back = jax.vjp(
        lambda *arrays: attend(*arrays, grid, window), query, key, value
    )
    return out, *pull_back(cotangent)


def _largest_difference(found, expected) -> float:
    pairs = zip(found, expected, strict=True)
    return max(float(jnp.max(jnp.abs(a - b))) for a, b in pairs)


def benchmark(repeats: int = 20, small: bool = False) -> dict[str, dict[str, Row]]:
    """Measures and prints everything.

    Args:
      repeats: Timed runs of each way.
      small: Whether to take a toy size.

    Returns:
      For each grid and window, as `16x16 w5`, a row for each way.
    """
    size = (2, 2, 4) if small else (8, 6, 64)
    cases = SMALL_CASES if small else CASES
    print(f"{parallel.num_devices()} x {parallel.device_kind()}")
    tables = {}
    for grid, window in cases:
        name = f"{grid[0]}x{grid[1]} w{window[0]}"
        tables[name] = rows = measure(grid, window, *size, repeats)
        images, heads, features = size
        caption = f"{name}; {images} images, {heads} heads of {features}"
        print(f"\n{format_table(rows, COLUMNS, caption)}", flush=True)
    return tables


def main(argv: list[str] | None = None) -> None:
    """Runs the command line."""
    parallel.keep_host_memory()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--small", action="store_true")
    benchmark(**vars(parser.parse_args((argv or sys.argv)[1:])))


if __name__ == "__main__":
    main()
