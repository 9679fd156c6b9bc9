"""Runs per-device functions on every device; no other file names devices.

A training step is written for one device and names the axis `AXIS` where devices must
agree (`mean_over_devices`). `data_parallel` lifts it with `jax.pmap`. Every device
holds a full copy of the state, but its arrays have no leading device axis. The same
code runs on one CPU, eight fake devices, two processes or a pod.

Example:
  >>> import jax, numpy as np
  >>> from ncgn_jax import parallel
  >>> step = parallel.data_parallel(
  ...     lambda state, batch, rng: (state + 1, parallel.mean_over_devices(batch)[0, 0])
  ... )
  >>> batch = parallel.split_for_devices(np.ones((parallel.num_devices() * 2, 3)))
  >>> step(np.int32(0), batch, jax.random.key(0))[1].item()
  1.0

Two properties of `jax.pmap` shape this file. Arguments that do not lie on the devices
as the compiled function wants them cost another trace on the second call, and with
several processes a donated one even fails. So arguments are first placed explicitly,
which also keeps the loop legal under `jax.transfer_guard`. A batch of fewer rows than
devices silently uses fewer devices, so it is refused here.
"""

import contextlib
import contextvars
import ctypes
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ncgn_jax.processes import (
    check_devices,
    gather_rows,
    is_main_process,
    num_processes,
    process_index,
    start,
    wait_for_all,
)

__all__ = [
    "AXIS",
    "Lifted",
    "MappedRows",
    "alone",
    "check_devices",
    "data_parallel",
    "device_index",
    "device_kind",
    "forward_options",
    "is_main_process",
    "keep_host_memory",
    "local_batch_size",
    "local_devices",
    "map_over_devices",
    "mean_over_devices",
    "merge_devices",
    "num_devices",
    "num_processes",
    "prepare_together",
    "put_batch",
    "put_batches",
    "replicate",
    "rows_of_process",
    "split_for_devices",
    "start",
    "wait_for_all",
]

AXIS = "device"

Tree = Any
Array = np.ndarray | jax.Array

_ALONE = contextvars.ContextVar("alone", default=False)


def num_devices() -> int:
    """Counts the devices of all processes."""
    return jax.device_count()


def local_devices() -> list[jax.Device]:
    """Lists the devices of this process."""
    return jax.local_devices()


def device_kind() -> str:
    """Returns the kind of device, for example `cpu`."""
    return jax.local_devices()[0].device_kind


def local_batch_size(global_batch_size: int) -> int:
    """Counts the rows of a global batch that this process has to load.

    Raises:
      ValueError: If the batch cannot be divided evenly over all devices.
    """
    if global_batch_size < 1 or global_batch_size % num_devices():
        raise ValueError(
            f"a global batch of {global_batch_size} cannot be divided over "
            f"{num_devices()} devices; use a multiple of {num_devices()}"
        )
    return global_batch_size // num_processes()


def rows_of_process(global_batch_size: int) -> slice:
    """Returns the range of rows of a global batch that this process has to load.

    Raises:
      ValueError: If the batch cannot be divided evenly over all devices.
    """
    local = local_batch_size(global_batch_size)
    return slice(process_index() * local, (process_index() + 1) * local)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Lets one process of several map over its own devices, without the others.

    Within, `map_over_devices` computes the shares of all processes one after another
    with the same programs, so that results are the same as together.
    """
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def split_for_devices(batch: Tree) -> Tree:
    """Reshapes every leaf from [B, ...] to [local_devices, B', ...].

    Args:
      batch: Tree of arrays whose first axis is the batch of this process.

    Returns:
      The same rows in the same order, B' = B / local_devices per device.

    Raises:
      ValueError: If B is not a multiple of the number of local devices.
    """
    count = len(local_devices())

    def split(leaf: Array) -> Array:
        if not leaf.shape or leaf.shape[0] == 0 or leaf.shape[0] % count:
            rows = leaf.shape[0] if leaf.shape else "no axis"
            raise ValueError(
                f"a batch of {rows} cannot be divided over {count} local devices; "
                f"use a multiple of {count}"
            )
        return leaf.reshape((count, leaf.shape[0] // count, *leaf.shape[1:]))

    return jax.tree.map(split, batch)


def merge_devices(tree: Tree) -> Tree:
    """Reshapes every leaf from [devices, B', ...] to [devices * B', ...]."""
    return jax.tree.map(
        lambda leaf: leaf.reshape((leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])),
        tree,
    )


def replicate(tree: Tree) -> Tree:
    """Copies every leaf to all local devices; shapes stay as they are.

    Leaves that are already there stay. A copy never shares memory with its origin, so
    that the origin stays readable when the copy is donated.
    """
    return _place(tree, _sharding(replicated=True), copy=True)


def put_batch(batch: Tree) -> Tree:
    """Splits a host batch over the local devices and starts the transfer."""
    return _place(split_for_devices(batch), _sharding(replicated=False), copy=False)


def put_batches(batches: Sequence[Tree]) -> Tree:
    """Splits and transfers host batches of one shape as one tree.

    Args:
      batches: Trees with leaves [B, ...].

    Returns:
      A tree with leaves [local_devices, batch, B / local_devices, ...].
    """
    parts = [split_for_devices(batch) for batch in batches]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *parts)
    return _place(stacked, _sharding(replicated=False), copy=False)


def mean_over_devices(tree: Tree) -> Tree:
    """Averages every leaf over all devices; only inside a lifted function."""
    return jax.lax.pmean(tree, AXIS)


def device_index() -> jax.Array:
    """Returns the number of this device among all; only inside a lifted function."""
    return jax.lax.axis_index(AXIS)


class Lifted:
    """A per-device function that runs on all devices, made by `data_parallel`."""

    def __init__(self, fn: Callable[..., Tree], donate_argnums: Sequence[int]) -> None:
        self._fn = fn
        self._donate = tuple(donate_argnums)
        self._compiled = functools.cache(self._compile)

    def __call__(self, *args: Tree) -> Tree:
        """Runs the function, compiled once per shape."""
        return self._compiled(len(args))(*_place_arguments(args, (1,), self._donate))

    def lower(self, *args: Tree) -> jax.stages.Lowered:
        """Lowers the function as `jax.jit` does, to look at the program."""
        placed = _place_arguments(args, (1,), self._donate)
        return self._compiled(len(args)).lower(*placed)

    def _compile(self, num_args: int) -> Any:
        return jax.pmap(
            self._fn,
            axis_name=AXIS,
            in_axes=tuple(0 if i == 1 else None for i in range(num_args)),
            out_axes=None,
            donate_argnums=self._donate,
        )


def data_parallel(
    fn: Callable[..., Tree], donate_argnums: Sequence[int] = (0,)
) -> Lifted:
    """Lifts a per-device function, `fn(state, batch, rng) -> (state, metrics)`.

    Args:
      fn: Function of one device. Its results must be equal on all devices, that is,
        gradients and metrics pass through `mean_over_devices`. This is not checked;
        the results of the first local device are returned.
      donate_argnums: Arguments whose memory the result may take over.

    Returns:
      A function of the same positional arguments. The batch has a leading axis of
      local devices, as `split_for_devices` makes it; all other arguments are the same
      on every device. It raises ValueError if the first axis of a leaf of the batch is
      not the number of local devices.
    """
    return Lifted(fn, donate_argnums)


class MappedRows:
    """A function of independent rows on all devices; see `map_over_devices`.

    Args:
      fn: Function of one device.
      batch_argnums: Arguments whose leading axis is divided over the devices.
    """

    def __init__(self, fn: Callable[..., Tree], batch_argnums: Sequence[int]) -> None:
        self._fn = fn
        self._batch = tuple(batch_argnums)
        self._compiled: dict[Any, Callable[..., Tree]] = {}

    def __call__(self, *given: Tree) -> Tree:
        """Calls the function, and compiles it for arguments of new shapes before."""
        args, num_rows, share = self._padded(given)
        if _ALONE.get():
            parts = [
                self._run(self._own(args, share, process))
                for process in range(num_processes())
            ]
            result = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        else:
            result = gather_rows(self._run(self._own(args, share, process_index())))
        return jax.tree.map(lambda leaf: leaf[:num_rows], result)

    def prepare(self, *given: Tree) -> None:
        """Compiles the function for arguments of these shapes, if it is not yet."""
        args, _, share = self._padded(given)
        placed = self._place(self._own(args, share, process_index()))
        self._compile_for(placed)

    def _padded(self, given: Sequence[Tree]) -> tuple[list[Tree], int, int]:
        """Returns padded arguments, the rows before, and those of a process."""
        args = list(given)
        num_rows = jax.tree.leaves([args[i] for i in self._batch])[0].shape[0]
        for i in self._batch:
            args[i] = jax.tree.map(_pad_rows, args[i])
        return args, num_rows, -(-num_rows // num_devices()) * len(local_devices())

    def _own(self, args: Sequence[Tree], share: int, process: int) -> list[Tree]:
        """Returns the rows of one process."""
        own, rows = list(args), slice(process * share, (process + 1) * share)
        for i in self._batch:
            own[i] = jax.tree.map(lambda leaf: leaf[rows], own[i])
        return own

    def _place(self, args: list[Tree]) -> list[Tree]:
        for i in self._batch:
            args[i] = split_for_devices(args[i])
        return _place_arguments(args, self._batch)

    def _run(self, args: list[Tree]) -> Tree:
        """Runs the share of one process, as many rows as its devices divide."""
        placed = self._place(args)
        return merge_devices(jax.device_get(self._compile_for(placed)(*placed)))

    def _compile_for(self, args: Sequence[Tree]) -> Callable[..., Tree]:
        leaves, structure = jax.tree.flatten(args)
        shapes = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        key = structure, shapes
        if key not in self._compiled:
            # An axis of None for a tree without a leaf, such as the parameters of a
            # network that has none, would shift those of the arguments before it.
            in_axes = [
                0 if i in self._batch or not jax.tree.leaves(arg) else None
                for i, arg in enumerate(args)
            ]

            # Threads that trace the same function together confuse jax before 0.9.
            @functools.wraps(self._fn)
            def own_function(*own: Tree) -> Tree:
                return self._fn(*own)

            lifted = jax.pmap(
                own_function,
                axis_name=AXIS,
                in_axes=tuple(in_axes),
                out_axes=0,
                devices=local_devices(),
            )
            options = forward_options()
            self._compiled[key] = (
                lifted.lower(*args).compile(options) if options else lifted
            )
        return self._compiled[key]


def map_over_devices(
    fn: Callable[..., Tree], batch_argnums: Sequence[int] = (0,)
) -> MappedRows:
    """Lifts a function of independent rows, such as a sampler.

    Rows that do not fill all devices evenly are padded by repeating the last one, and
    the padding is dropped again. Random keys belong into a batch argument,
    `jax.random.split(rng, num_rows)`, so that a row never depends on the number of
    devices.

    Args:
      fn: Function of arrays [b, ...] that returns a tree of arrays [b, ...] and names
        no device axis.
      batch_argnums: Arguments whose leading axis is divided over the devices. All
        others are the same on every device.

    Returns:
      A function of the same positional arguments that takes any number of rows and
      returns numpy arrays with as many rows. With several processes, all of them call
      it with the same arguments, each computes its share, and all get all rows; but
      see `alone`.
    """
    return MappedRows(fn, batch_argnums)


def prepare_together(programs: Sequence[Callable[[], None]]) -> None:
    """Compiles programs, while one is traced the others before it.

    Args:
      programs: `MappedRows.prepare` of each, with its arguments.
    """
    if num_processes() > 1 or len(programs) < 2:
        return  # Processes must not wait for each other in different orders.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        contexts = [contextvars.copy_context() for _ in programs]
        waiting = [
            pool.submit(context.run, program)
            for context, program in zip(contexts, programs, strict=True)
        ]
        for future in waiting:
            future.result()


def forward_options() -> dict[str, str]:
    """Returns compiler options for programs that run a network forward only.

    On a CPU, XLA passes chains of elementwise operations, sums and products to YNNPACK.
    This speeds up a training step but slows down a sampler step, from 12.1 to 14.5 ms
    in the coarsest noise bucket and from 17.8 to 25.1 ms in the finest
    (benchmarks/step.py). There are no options for other devices and where XLA does not
    know this one.
    """
    option = {"xla_cpu_experimental_ynn_fusion_type": ""}
    return option if _accepts_on_cpu(tuple(option.items())) else {}


@functools.cache
def _accepts_on_cpu(options: tuple[tuple[str, str], ...]) -> bool:
    if jax.local_devices()[0].platform != "cpu":
        return False
    try:
        jax.jit(lambda: jnp.zeros(())).lower().compile(dict(options))
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _pad_rows(leaf: Array) -> Array:
    """Repeats the last row up to a multiple of all devices."""
    missing = -leaf.shape[0] % num_devices()
    if not missing:
        return leaf
    rows = np.minimum(np.arange(leaf.shape[0] + missing), leaf.shape[0] - 1)
    return leaf[rows]


def _place_arguments(
    args: Sequence[Tree], batch: Sequence[int], donate: Sequence[int] = ()
) -> list[Tree]:
    """Puts each argument where the compiled function wants it."""
    return [
        _place(arg, _sharding(replicated=i not in batch), copy=i in donate)
        for i, arg in enumerate(args)
    ]


def _place(tree: Tree, sharding: NamedSharding, copy: bool) -> Tree:
    """Moves the leaves that lie elsewhere; traced values stay.

    With `copy`, moved leaves do not share memory with their origin. `device_put` alone
    may share it on the device that held the leaf, even with `may_alias=False`.
    """
    leaves = jax.tree.leaves(tree)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return tree
    if sharding.spec:
        _check_device_axis(leaves, len(sharding.device_set))
    if all(getattr(leaf, "sharding", None) == sharding for leaf in leaves):
        return tree
    if copy:
        tree = jax.tree.map(
            lambda leaf: jnp.copy(leaf) if isinstance(leaf, jax.Array) else leaf, tree
        )
    return jax.device_put(tree, sharding)


def _check_device_axis(leaves: Sequence[Tree], count: int) -> None:
    for leaf in leaves:
        shape = np.shape(leaf)
        if not shape or shape[0] != count:
            raise ValueError(
                f"a batch leaf of shape {shape} needs a first axis of {count}, the "
                "number of local devices; see split_for_devices"
            )


@functools.cache
def _sharding(replicated: bool) -> NamedSharding:
    """Describes how an argument lies on the devices of this process."""
    mesh = Mesh(np.asarray(jax.local_devices()), (AXIS,))
    return NamedSharding(mesh, PartitionSpec() if replicated else PartitionSpec(AXIS))


def keep_host_memory() -> None:
    """Keeps freed memory for the next step instead of returning it to the kernel.

    On a CPU, XLA allocates its scratch memory at every call. glibc returns large pieces
    each time, and the page faults of allocating them again cost up to 40 % of a
    training step. This affects the whole process, so only programs should call it. It
    does nothing where the C library has no `mallopt`.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    one_arena, never_map, never_trim = (-8, 1), (-4, 0), (-1, -1)
    for option, value in (one_arena, never_map, never_trim):
        mallopt(option, value)
