"""Trains: validates, builds the task, restores, steps, logs, saves.

    validate -> task -> (first stage) -> state -> restore -> loop

`make_train_step` is pure and per device: (state, batch, rng) -> (state, metrics). All
randomness is fold_in(seed, step) and batches are functions of (seed, step), so a run
that was killed and restarted equals one that was not, bit for bit. Metrics of a step
are fetched after the next one has been dispatched; a step that is not finite stops
the run before anything of it is saved. What the log has gathered between two of its
lines is saved too.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from ncgn_jax import parallel
from ncgn_jax.config import config_to_json
from ncgn_jax.data.whole_files import write_whole
from ncgn_jax.domains import make_task, validate
from ncgn_jax.faults import TrainingError
from ncgn_jax.memory import go_on, make_record
from ncgn_jax.process import ema_decay, update_ema
from ncgn_jax.run.checkpoint import Checkpoints
from ncgn_jax.run.lock import Lock, hold
from ncgn_jax.run.logs import CLOCK, MetricsWriter, Progress, format_seconds
from ncgn_jax.run.optimizer import describe_rate_jump, learning_rate, make_optimizer
from ncgn_jax.run.preemption import Preemption
from ncgn_jax.run.state import TrainState, make_train_state, num_params
from ncgn_jax.starting import Start, read_start
from ncgn_jax.tasks import NO_ROWS, StepKind, Task

Metrics = dict[str, Any]
Callback = Callable[[int, dict[str, float]], None]
FIRST_STAGE = "first_stage"  # folder within that of the run


def make_train_step(
    task: Task, tx: optax.GradientTransformation, config: ConfigDict
) -> Callable[[TrainState, Any, jax.Array], tuple[TrainState, Metrics]]:
    """Returns the pure step of one device.

    The step averages gradients and metrics over devices; keys are
    fold_in(rng, state.step). Metrics: `loss`, `bucket_loss` [bucket], and l2 norms of
    gradient, update and parameters.
    """
    decay = config.train.ema_decay

    def train_step(state: TrainState, batch, rng):
        rng = jax.random.fold_in(rng, state.step)
        (loss, (model_state, bucket_loss)), grads = jax.value_and_grad(
            task.loss_with_average, has_aux=True
        )(state.params, state.ema, state.model_state, batch, rng)
        loss, bucket_loss, grads, model_state = parallel.mean_over_devices(
            (loss, bucket_loss, grads, model_state)
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            "bucket_loss": bucket_loss,
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(params),
        }
        ema = update_ema(state.ema, params, ema_decay(state.step, decay))
        state = TrainState(
            step=state.step + 1,
            params=params,
            ema=ema,
            opt_state=opt_state,
            model_state=model_state,
        )
        return state, metrics

    return train_step


class TrainingSteps:
    """Takes a configuration's training steps on all devices, one or several per call.

    Several are one `lax.scan`: the host passes all their batches together, and receives
    their metrics together. Each number of steps is compiled once.

    Attributes:
      rng: The run's key, on the devices.
    """

    def __init__(
        self, task: Task, tx: optax.GradientTransformation, config: ConfigDict
    ) -> None:
        step = make_train_step(task, tx, config)

        def steps(state, batches, rng):
            return jax.lax.scan(lambda s, batch: step(s, batch, rng), state, batches)

        self._task = task
        self._rows = parallel.rows_of_process(config.train.batch_size)
        self._one, self._several = map(parallel.data_parallel, (step, steps))
        self.rng = parallel.replicate(jax.random.key(config.seed + 1))

    def load(self, step: int, num_steps: int = 1) -> Any:
        """Starts the transfer of the batches of steps from `step` on."""
        batches = [self._task.batch(step + i, self._rows) for i in range(num_steps)]
        if num_steps == 1:
            return parallel.put_batch(batches[0])
        return parallel.put_batches(batches)

    def __call__(
        self, state: TrainState, batch: Any, num_steps: int = 1
    ) -> tuple[TrainState, Metrics]:
        """Takes as many steps as were loaded, which takes over the state's memory.

        Returns:
          The new state and metrics, those of several steps with an axis of steps.
        """
        return self._function(num_steps)(state, batch, self.rng)

    def lower(self, state: TrainState, batch: Any, num_steps: int = 1) -> Any:
        """Returns the program of a call, to look at, compile and time."""
        return self._function(num_steps).lower(state, batch, self.rng)

    def _function(self, num_steps):
        return self._one if num_steps == 1 else self._several


def init_state(
    task: Task,
    tx: optax.GradientTransformation,
    seed: int,
    start: Start | None = None,
) -> TrainState:
    """Returns the state of step 0 of a seed, with the weights of a start if any."""
    params, model_state = jax.jit(task.init)(jax.random.key(seed))
    if start is not None:
        if parallel.is_main_process():
            print("\n".join(start.describe()), flush=True)
        params, model_state = start.fill(params, model_state)
    return make_train_state(params, model_state, tx)


def restore_or_init(
    task: Task,
    tx: optax.GradientTransformation,
    seed: int,
    store: Checkpoints,
    workdir: str | Path,
    preemption: Preemption | None = None,
) -> TrainState:
    """Restores the newest readable checkpoint of a run, or starts it.

    A run that starts trains its first stage before, if its task has one, in a folder
    within its own; that too resumes.
    """
    abstract = jax.eval_shape(lambda: init_state(task, tx, seed))
    restored = store.restore(abstract)
    if restored is None:
        source = task.config.train.start_from
        start = None if source is None else read_start(task, source)
        if start is None or not start.has_state:
            _train_first_stage(task, workdir, preemption)
        return init_state(task, tx, seed, start)
    state, step = restored
    if parallel.is_main_process():
        print(f"resuming from checkpoint {step}", flush=True)
    return state


def train(
    config: ConfigDict,
    workdir: str | Path,
    task: Task | None = None,
    preemption: Preemption | None = None,
    accept: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
) -> TrainState:
    """Trains a configuration to its last step, resuming what `workdir` holds.

    Holds the lock of `workdir` meanwhile.

    Args:
      config: Complete configuration; validated first.
      workdir: Folder for checkpoints, metrics and pictures of this run.
      task: The configuration's task if it is built already.
      preemption: Decides after each step whether to save and stop.
      accept: Fields, and `data`, that may differ from those that `workdir` was
        trained with so far; see `memory`.
      callbacks: Called with each finished step and its metrics, on every process.

    Returns:
      The final state.

    Raises:
      ConfigError: Before anything is written, if the configuration is faulty, or not
        the one that `workdir` was trained with.
      TrainingError: If loss or gradient stop being finite.
      LockError: If another run is using `workdir`.
      Preempted: If the run was asked to stop; what it has learned is saved.
    """
    validate(config)
    task = task or make_task(config)
    with hold(workdir) as lock:
        task, accepted, changes, former = go_on(task, workdir, accept)
        if parallel.is_main_process():
            notes = [f"accepted: {difference}" for difference in accepted]
            if former is not None:
                notes += describe_rate_jump(former.config, config, former.step)
            print("".join(f"{note}\n" for note in notes), end="", flush=True)
        record = make_record(task, changes)
        preemption = preemption or Preemption()
        return _train(config, workdir, task, record, preemption, lock, callbacks)


def _train(
    config: ConfigDict,
    workdir: str | Path,
    task: Task,
    record: dict[str, Any],
    preemption: Preemption,
    lock: Lock,
    callbacks: Sequence[Callback],
) -> TrainState:
    tx = make_optimizer(config)
    store = Checkpoints(
        workdir, config_to_json(config), config.train.max_to_keep, record=record
    )
    try:
        state = restore_or_init(task, tx, config.seed, store, workdir, preemption)
        start = int(state.step)
        if start >= config.train.num_steps:
            return state
        if parallel.is_main_process():
            print(f"training {num_params(state.params):,} parameters", flush=True)
            # Only now: a folder of another model's run keeps its own configuration.
            _write_config(config, Path(workdir))
        writer = MetricsWriter(workdir, start + 1, active=parallel.is_main_process())
        logger = _StepLogger(config, task, writer, store, callbacks)
        saver = _Saver(store, logger, lock)
        with writer, preemption.postponed():
            return _loop(config, task, tx, state, logger, saver, preemption)
    finally:
        store.close()


def _write_config(config: ConfigDict, workdir: Path) -> None:
    """Writes config.json, of which a kill leaves all or nothing."""
    write_whole(workdir / "config.json", config_to_json(config) + "\n")


def _train_first_stage(
    task: Task, workdir: str | Path, preemption: Preemption | None
) -> None:
    """Trains what a task stands on, if anything, and hands it over."""
    stage = task.first_stage()
    if stage is None:
        return
    config, first = stage
    if parallel.is_main_process():
        print(f"first stage: {config.task}", flush=True)
    state = train(config, Path(workdir) / FIRST_STAGE, first, preemption)
    task.adopt(jax.device_get(state.ema), jax.device_get(state.model_state))


def _loop(
    config: ConfigDict,
    task: Task,
    tx: optax.GradientTransformation,
    state: TrainState,
    logger: "_StepLogger",
    saver: "_Saver",
    preemption: Preemption,
) -> TrainState:
    num_steps, start = config.train.num_steps, int(state.step)
    steps = TrainingSteps(task, tx, config)
    _compile_all(steps, task.step_kinds(start, num_steps), state)
    state = parallel.replicate(state)
    progress = Progress(
        num_steps,
        start,
        description="training",
        every_steps=10 * config.train.log_every_steps,
        active=parallel.is_main_process(),
    )
    size = config.train.steps_per_call
    calls = _calls(start, num_steps, size)
    batch, pending = steps.load(*calls[0]), None
    with progress, jax.transfer_guard_device_to_host("disallow"):
        for next_call, (step, count) in enumerate(calls, 1):
            state, metrics = steps(state, batch, count)
            # While the device works: the next batch, then the last step's metrics.
            if next_call < len(calls):
                batch = steps.load(*calls[next_call])
            if pending is not None:
                logger.check_all(*pending, progress)
            pending, done = (step + 1, metrics), step + count
            is_due = done % config.train.checkpoint_every_steps == 0
            is_last = preemption.reached(-(-done // size))
            if is_due or is_last:
                logger.check_all(*pending, progress)
                pending = None
                saver.save(done, state, is_due=is_due)
            if is_last:
                saver.wait()
                raise preemption.stopped(done)
        if pending is not None:
            logger.check_all(*pending, progress)
    saver.save(num_steps, state, is_due=False)
    saver.wait()
    return state


def _calls(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """Divides steps into calls (first step, steps) that end at multiples of `size`.

    Those of a resumed run are then those of one that was not stopped.
    """
    ends = [start, *range(start - start % size + size, stop, size), stop]
    return [(first, end - first) for first, end in itertools.pairwise(ends)]


def _compile_all(
    steps: TrainingSteps, kinds: Sequence[StepKind], state: TrainState
) -> None:
    """Takes a step of every kind on a copy of the state, so that none compiles later.

    A single kind compiles at the first step anyway.
    """
    if len(kinds) == 1:
        return
    began = time.monotonic()
    copy = parallel.replicate(state)
    for kind in kinds:
        copy, _ = steps(copy, steps.load(kind.step))
    jax.block_until_ready(copy)
    if parallel.is_main_process():
        names = ", ".join(kind.name for kind in kinds)
        seconds = format_seconds(time.monotonic() - began)
        print(f"compiled steps of {names} in {seconds}", flush=True)


class _Saver:
    """Stores a state with what the log needs, unless another run has the folder."""

    def __init__(self, store: Checkpoints, logger: "_StepLogger", lock: Lock):
        self._store = store
        self._logger = logger
        self._lock = lock

    def save(self, step: int, state: TrainState, *, is_due: bool) -> None:
        """Stores a state; only those that are due can be the best.

        Their loss is the mean since the one before: of just a few steps it would be
        low by chance.
        """
        self._lock.check()
        loss = self._logger.end_of_period() if is_due else None
        notes = self._logger.notes()
        self._store.save(step, jax.device_get(state), loss=loss, notes=notes)

    def wait(self) -> None:
        """Waits until all that was saved is on disk, on every process."""
        self._store.wait()
        parallel.wait_for_all("saved")


class _StepLogger:
    """Fetches a step's metrics, refuses what is not finite, logs now and then."""

    def __init__(self, config, task, writer, store, callbacks):
        self._callbacks = callbacks
        self._every = config.train.log_every_steps
        self._rate = learning_rate(config)
        self._clock: tuple[int, float] | None = None  # step and time of the last line
        self._names = task.bucket_names
        self._writer = writer
        self._store = store
        # Since the last line of the log, and since the last checkpoint that was due.
        self._values: dict[str, list[float]] = store.notes.get("values", {})
        self._loss_sum, self._loss_count = store.notes.get("losses", (0.0, 0))

    def notes(self) -> dict[str, Any]:
        """Returns what a resumed run has to begin with."""
        values = {name: list(values) for name, values in self._values.items()}
        return {"values": values, "losses": [self._loss_sum, self._loss_count]}

    def end_of_period(self) -> float:
        """Returns the mean loss since it was last asked for."""
        mean = self._loss_sum / self._loss_count
        self._loss_sum, self._loss_count = 0.0, 0
        return mean

    def check_all(self, step: int, metrics: Metrics, progress: Progress) -> None:
        """Checks what a call returned, whose first step ended as number `step`."""
        metrics = jax.device_get(metrics)
        if np.ndim(metrics["loss"]) == 0:
            self.check(step, metrics, progress)
            return
        for i in range(len(metrics["loss"])):
            of_step = {name: values[i] for name, values in metrics.items()}
            self.check(step + i, of_step, progress)

    def check(self, step: int, metrics: Metrics, progress: Progress) -> None:
        """Takes in one step's metrics, on the host."""
        self._refuse_non_finite(step, metrics)
        flat = {k: float(v) for k, v in metrics.items() if k != "bucket_loss"}
        for name, value in zip(self._names, metrics["bucket_loss"], strict=True):
            if value != NO_ROWS:
                flat[f"loss/{name}"] = float(value)
        self._loss_sum += flat["loss"]
        self._loss_count += 1
        for name, value in flat.items():
            self._values.setdefault(name, []).append(value)
        if step % self._every == 0:
            means = {name: np.mean(self._values[name]) for name in self._values}
            self._writer.write(step, means | self._rates(step))
            self._values = {}
        if self._clock is None or step % self._every == 0:
            self._clock = step, time.time()
        progress.update(step, {"loss": flat["loss"]})
        for callback in self._callbacks:
            callback(step, flat)

    def _rates(self, step: int) -> dict[str, float]:
        """Returns the learning rate of a step, the time, and the speed so far.

        The speed leaves out the first step of this process, in which it compiles.
        """
        now = time.time()
        rates = {f"{CLOCK}unix_seconds": now}
        if self._clock is not None and now > self._clock[1]:
            speed = (step - self._clock[0]) / (now - self._clock[1])
            rates[f"{CLOCK}steps_per_second"] = speed
        if self._rate is not None:
            with jax.transfer_guard_device_to_host("allow"):
                rates["learning_rate"] = float(self._rate(step - 1))
        return rates

    def _refuse_non_finite(self, step: int, metrics: Metrics) -> None:
        if np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"]):
            return
        bad = [
            name
            for name, value in zip(self._names, metrics["bucket_loss"], strict=True)
            if not np.isfinite(value) and value != NO_ROWS
        ]
        where = f"noise bucket {', '.join(bad)}" if bad else "the gradient"
        self._store.wait()
        kept = self._store.steps()
        resume = f"checkpoint {kept[-1]} is the last good one" if kept else "none saved"
        raise TrainingError(
            f"step {step}: loss {metrics['loss']}, gradient norm "
            f"{metrics['grad_norm']}: not finite in {where}; {resume}. Lower "
            "train.learning_rate or train.clip_norm, or look for bad values in the data"
        )
