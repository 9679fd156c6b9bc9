"""What a training step and a sampler step cost, overall and per noise bucket.

    python -m benchmarks.step [--config=FILE] [--config.model.convolution=gcn ...]
        [--repeats=10] [--sample_graphs=8] [--sampler_steps=20] [--whole_only]

Without --config the published network at the paper's size is measured: batches of 128
graphs of 400 points, 7 neighbours, width 64, 3 layers, graph attention, batch norm.
Points are random: no data is needed, and time does not depend on them. Printed for the
whole batch, then for batches that lie in one bucket alone:

- seconds to compile. They are cold only without a cache: start with
  JAX_COMPILATION_CACHE_DIR= (empty);
- seconds a training step, median and range, after 15 steps that warm up (until then
  the C library still asks the kernel for memory); of these, building graphs;
- GFLOP of the matrix products, forward alone and with backward, counted in the traced
  program, beside XLA's count of all operations;
- the floor: these GFLOP at the speed that a [51200, 64] x [64, 64] product reaches on
  this machine just now, and its share of the measured time;
- scratch memory of the program (XLA) and the largest size of the process so far;
- the same for one sampler step (one network evaluation) of few graphs.

Numbers are those of one device. Nothing else should run on the machine.
"""

import argparse
import copy
import dataclasses
import functools
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ncgn_jax import parallel
from ncgn_jax.config import apply_overrides, load_config, split_config_arguments
from ncgn_jax.data.report import DataReport
from ncgn_jax.domains import validate
from ncgn_jax.faults import one_line_errors
from ncgn_jax.graphs import build_graphs, join_graphs
from ncgn_jax.loop import TrainingSteps, init_state
from ncgn_jax.metrics.table import Column, Row, format_table
from ncgn_jax.point_clouds.config import default_config
from ncgn_jax.point_clouds.sets import make_dataset
from ncgn_jax.point_clouds.task import PointCloudTask
from ncgn_jax.process import integrate, make_sampler
from ncgn_jax.run.optimizer import make_optimizer
from ncgn_jax.run.state import TrainState
from ncgn_jax.tasks.bucketed import bucket_names, make_batch_layout

WARM_UP = 15

COLUMNS = (
    Column("graphs", "graphs", 1, 0, "graphs in a batch of one device"),
    Column("compile", "compile s", 1, 1, "tracing, lowering and compiling"),
    Column("step", "step s", 1, 4, "median seconds of a step"),
    Column("fastest", "min s", 1, 4, "fastest step"),
    Column("slowest", "max s", 1, 4, "slowest step"),
    Column("building", "graphs s", 1, 4, "median seconds to build a batch's graphs"),
    Column("forward", "fwd GFLOP", 1, 2, "matrix products of a forward pass"),
    Column("matmul", "GFLOP", 1, 2, "matrix products of a step"),
    Column("all_flop", "XLA GFLOP", 1, 2, "all operations, as XLA counts them"),
    Column("floor", "floor s", 1, 4, "matrix products alone at the measured speed"),
    Column("share", "of floor", 100, 0, "floor / step, %; 100 is perfect"),
    Column("scratch", "scratch MiB", 1, 0, "temporary memory of the program"),
)


def paper_config() -> ConfigDict:
    """Returns network and size that the published figures are for."""
    config = default_config()
    config.data.num_points = 400
    config.dmp.num_neighbors = 7
    config.model.convolution = "gat"
    config.model.width = 64
    config.model.num_layers = 3
    config.model.norm = "batch"
    config.train.batch_size = 128
    return config.lock()


def random_task(config: ConfigDict) -> PointCloudTask:
    """Makes a task whose clouds are random."""
    shape = (config.train.batch_size, config.data.num_points, 3)
    clouds = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    labels = np.zeros(len(clouds), np.int32)
    report = DataReport("random numbers", "clouds", {"train": len(clouds)})
    dataset = make_dataset("random", clouds, clouds, labels, labels, ("none",), report)
    return PointCloudTask(config, dataset)


def one_bucket_task(task: PointCloudTask, index: int) -> PointCloudTask:
    """Returns a task all of whose graphs have the shape of one bucket."""
    single, time = copy.copy(task), task.model.time
    time = dataclasses.replace(time, buckets=(time.buckets[index],))
    single.model = dataclasses.replace(task.model, time=time)
    single.layout = make_batch_layout(
        time, task.config.train.batch_size, parallel.num_devices()
    )
    single.bucket_names = bucket_names(time.buckets)
    return single


class Timing(NamedTuple):
    """A compiled training step, and what it took.

    Attributes:
      compiled: The program.
      compile_seconds: Tracing, lowering and compiling.
      seconds: Of each step, by the clock.
      processor: Of each step, of all processors together.
    """

    compiled: jax.stages.Compiled
    compile_seconds: float
    seconds: list[float]
    processor: list[float]


def prepare(
    task: PointCloudTask, num_steps: int = 1
) -> tuple[TrainingSteps, TrainState, Any]:
    """Returns training steps, a state of step 0 and a batch, on the devices.

    Args:
      task: What to train.
      num_steps: Steps that the batch is for.
    """
    tx = make_optimizer(task.config)
    steps = TrainingSteps(task, tx, task.config)
    state = parallel.replicate(init_state(task, tx, task.config.seed))
    return steps, state, steps.load(0, num_steps)


def time_steps(
    steps: TrainingSteps,
    state: TrainState,
    batch: Any,
    warm_up: int,
    repeats: int,
    num_steps: int = 1,
) -> Timing:
    """Compiles a training step and times it `repeats` times after `warm_up` times.

    Args:
      steps: Training steps, as `prepare` returns them.
      state: Their state; its memory is taken over.
      batch: Their batch.
      warm_up: Calls before those that are timed.
      repeats: Calls that are timed.
      num_steps: Steps of a call, over which its seconds are divided.
    """
    began = time.perf_counter()
    call = functools.partial(steps, num_steps=num_steps)
    program = jax.jit(call, donate_argnums=0).lower(state, batch)
    timing = Timing(program.compile(), time.perf_counter() - began, [], [])
    for number in range(warm_up + repeats):
        began = time.perf_counter(), time.process_time()
        state, metrics = timing.compiled(state, batch)
        jax.block_until_ready((state, metrics))
        if number >= warm_up:
            timing.seconds.append((time.perf_counter() - began[0]) / num_steps)
            timing.processor.append((time.process_time() - began[1]) / num_steps)
    return timing


def measure_training(task: PointCloudTask, repeats: int, rate: float) -> Row:
    """Compiles and times training steps; `rate` is in GFLOP/s."""
    steps, state, batch = prepare(task)

    def forward(state, batch, rng):
        loss, _ = task.loss(state.params, state.model_state, batch, rng)
        return parallel.mean_over_devices(loss)

    lifted = parallel.data_parallel(forward, donate_argnums=())
    only_forward = matmul_gflop(lifted, state, batch, steps.rng)
    gflop = matmul_gflop(steps, state, batch)
    timing = time_steps(steps, state, batch, WARM_UP, repeats)
    return {
        "graphs": task.config.train.batch_size // parallel.num_devices(),
        "compile": timing.compile_seconds,
        "building": measure_graphs(task, repeats),
        "forward": only_forward,
        **_figures(timing.compiled, timing.seconds, gflop, rate),
    }


def measure_graphs(task: PointCloudTask, repeats: int, warm_up: int = WARM_UP) -> float:
    """Returns the median seconds to build the graphs of a device's batch."""
    layout, num_devices = task.layout, parallel.num_devices()
    num_groups = layout.num_groups // num_devices

    @jax.jit
    def build(clouds):
        graphs = [
            build_graphs(layout.take(clouds, i), bucket, jax.random.key(i))
            for i, bucket in enumerate(task.model.time.buckets)
        ]
        return join_graphs(graphs)

    clouds = jnp.asarray(task.dataset.train[: num_groups * layout.group_size])
    return float(np.median(_time(lambda: build(clouds), repeats, warm_up)))


def measure_sampler(
    task: PointCloudTask,
    bucket: int,
    num_graphs: int,
    num_steps: int,
    repeats: int,
    rate: float,
) -> Row:
    """Times Euler steps within a bucket, graph building included."""
    walk, x, times = sampler_program(task, bucket, num_graphs, num_steps)
    gflop = matmul_gflop(walk, x, times) / num_steps
    began = time.perf_counter()
    compiled = walk.lower(x, times).compile(parallel.forward_options())
    compile_seconds = time.perf_counter() - began
    seconds = np.asarray(_time(lambda: compiled(x, times), repeats)) / num_steps
    row = _figures(compiled, seconds, gflop, rate)
    del row["all_flop"]  # XLA counts the body of a scan once
    return {"graphs": num_graphs, "compile": compile_seconds, **row}


def sampler_program(
    task: PointCloudTask, bucket: int, num_graphs: int, num_steps: int
) -> tuple[Any, jax.Array, np.ndarray]:
    """Returns a jitted walk of Euler steps within a bucket, its start and times."""
    model = task.model
    params, model_state = jax.jit(model.init)(jax.random.key(0))
    variables, label = {"params": params, **model_state}, jnp.zeros(num_graphs, int)
    low, high = model.time.intervals()[bucket]
    times = np.linspace(low, high, num_steps + 1, dtype=np.float32)
    sampler, schedule = make_sampler("euler"), model.time.schedule

    def predict(x_t, t, label):
        return model.apply(variables, bucket, x_t, t, label)[0]

    @jax.jit
    def walk(x, times):
        denoise = model.denoiser(predict, label, 0.0, None)
        return integrate(sampler, denoise, schedule, x, times, jax.random.key(0))

    start = model.start(np.zeros(num_graphs, np.int32), 0, np.arange(num_graphs))
    return walk, jnp.asarray(start.x), times


def matmul_gflop(fn: Callable[..., Any], *args: Any) -> float:
    """Counts the matrix products of a function, 2 M N K each, in GFLOP a device."""
    return _count(jax.make_jaxpr(fn)(*args).jaxpr) / 1e9


def matmul_rate(repeats: int = 20) -> float:
    """Measures GFLOP/s of the product that most of the network consists of."""
    a, b = jnp.ones((51_200, 64)), jnp.ones((64, 64))
    multiply = jax.jit(jnp.matmul)
    seconds = _time(lambda: multiply(a, b), repeats)
    return 2 * a.size * b.shape[1] / float(np.median(seconds)) / 1e9


def _count(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            inner = int(np.prod([left[axis] for axis in contracted]))
            total += 2 * inner * equation.outvars[0].aval.size
            continue
        inside = [
            _count(getattr(part, "jaxpr", part))
            for value in equation.params.values()
            for part in (value if isinstance(value, tuple | list) else (value,))
            if hasattr(getattr(part, "jaxpr", part), "eqns")
        ]
        # Of the branches of a condition one is taken; a scan repeats its body.
        branches = equation.primitive.name == "cond"
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * (max(inside, default=0) if branches else sum(inside))
    return total


def _figures(compiled, seconds: Sequence[float], gflop: float, rate: float) -> Row:
    step, memory = float(np.median(seconds)), compiled.memory_analysis()
    return {
        "step": step,
        "fastest": float(np.min(seconds)),
        "slowest": float(np.max(seconds)),
        "matmul": gflop,
        "all_flop": compiled.cost_analysis().get("flops", float("nan")) / 1e9,
        "floor": gflop / rate,
        "share": gflop / rate / step,
        "scratch": memory.temp_size_in_bytes / 2**20 if memory else float("nan"),
    }


def _time(call: Callable[[], Any], repeats: int, warm_up: int = WARM_UP) -> list[float]:
    seconds = []
    for _ in range(warm_up + repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return seconds[warm_up:]


def benchmark(
    config: ConfigDict,
    repeats: int = 10,
    sample_graphs: int = 8,
    sampler_steps: int = 20,
    whole_only: bool = False,
) -> dict[str, dict[str, Row]]:
    """Measures and prints everything.

    Returns:
      Rows of `training` (`whole`, then one a bucket) and of `sampler` (one a bucket,
      then `mean`, weighted by the time that each bucket takes up).
    """
    task, rate = random_task(config), matmul_rate()
    device = f"{parallel.num_devices()} x {parallel.device_kind()}"
    network = task.describe_model()[-1]
    print(f"{device}; matrix products reach {rate:.1f} GFLOP/s; {network}")
    training = {"whole": measure_training(task, repeats, rate)}
    sampler: dict[str, Row] = {}
    names = () if whole_only else task.bucket_names
    for index, name in enumerate(names):
        print(f"measuring bucket {name}", flush=True)
        single = one_bucket_task(task, index)
        training[name] = measure_training(single, repeats, rate)
        sampler[name] = measure_sampler(
            task, index, sample_graphs, sampler_steps, repeats, rate
        )
        jax.clear_caches()
    title = "training step; but for `whole`, batches that lie in one bucket"
    _print_table(training, title, legend=True)
    if sampler:
        sampler["mean"] = _mean_over_time(task, sampler)
        _print_table(sampler, "sampler step", legend=False)
    return {"training": training, "sampler": sampler}


def _mean_over_time(task: PointCloudTask, sampler: dict[str, Row]) -> Row:
    shares = np.diff(task.model.time.intervals(), axis=1).ravel()
    keys = ("graphs", "step", "matmul", "floor")
    mean = {
        key: float(np.dot(shares, [row[key] for row in sampler.values()]))
        for key in keys
    }
    return mean | {"share": mean["floor"] / mean["step"]}


def _print_table(rows: dict[str, Row], title: str, *, legend: bool) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    text = format_table(rows, COLUMNS, f"{title}; process so far {peak:.0f} MiB")
    if not legend:
        text = text[: text.rindex("\n\n")]
    print(f"\n{text}", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Runs the command line."""
    parallel.keep_host_memory()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--sample_graphs", type=int, default=8)
    parser.add_argument("--sampler_steps", type=int, default=20)
    parser.add_argument("--whole_only", action="store_true")
    with one_line_errors():
        path, overrides, rest = split_config_arguments((argv or sys.argv)[1:])
        options = parser.parse_args(rest)
        config = load_config(path) if path else paper_config()
        config = apply_overrides(config, overrides)
        validate(config)
    benchmark(config, **vars(options))


if __name__ == "__main__":
    main()
