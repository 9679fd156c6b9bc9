"""Lets the processes of one run join, agree, wait for each other and leave.

A run is one process, or one per host of a pod. Three variables describe the others,
`JAX_COORDINATOR_ADDRESS` (host:port of process 0), `JAX_NUM_PROCESSES` and
`JAX_PROCESS_ID`. On TPU pods and under Slurm, `JAX_COORDINATOR_ADDRESS=auto` suffices.
Process 0 alone reads and writes locks, checkpoints, logs and tables.

All processes run the same program, and the devices of each wait for those of the
others. So process 0 sends the others what it alone knows (`from_main`), all compare
what they must have in common (`check_same`), and a process that fails ends at once,
because the others would wait for it (`together`).

Example:
  >>> from ncgn_jax import processes
  >>> processes.start()  # one process: nothing to join
  >>> processes.num_processes(), processes.is_main_process()
  (1, True)
  >>> processes.from_main(lambda: b"only process 0 computes this").tobytes()
  b'only process 0 computes this'
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint.multihost import sync_global_processes

from ncgn_jax.faults import MachineError, ProcessError

Tree = Any

_JOIN_SECONDS = 300
# A process without a heartbeat for so long counts as dead, and the others end.
_HEARTBEAT_SECONDS = 40
# Process 0 may measure samples for hours while the others wait for it.
_LEAVE_SECONDS = 30 * 24 * 3600
_CHUNK_BYTES = 64 * 2**20
# Prints the last line it was sent once this process has ended, however it ended.
_WATCHER = (
    "trap '' INT TERM HUP; last=; while read -r line; do last=$line; done; "
    '[ -z "$last" ] || printf "%s\\n" "$last" >&2'
)


def start() -> None:
    """Joins the processes of one run; does nothing for a single process.

    Must be called before anything touches a device. Reads these variables:

    - `JAX_COORDINATOR_ADDRESS`: host:port of process 0, or `auto` where JAX finds out
      by itself (TPU pods, Slurm, Open MPI); a single process needs none;
    - `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`, from 0; not needed with `auto`;
    - `NCGN_JOIN_SECONDS`: longest wait for the others, 300 by default.

    If some processes never come, this one ends with a message.

    Raises:
      ProcessError: If only some of the first three are given, they contradict, the
        coordinator cannot be reached, or the processes differ in devices.
    """
    environment = os.environ
    coordinator = environment.get("JAX_COORDINATOR_ADDRESS") or None
    num_processes = _read_number("JAX_NUM_PROCESSES")
    process_id = _read_number("JAX_PROCESS_ID")
    seconds = _read_number("NCGN_JOIN_SECONDS") or _JOIN_SECONDS
    if num_processes == 1 or (coordinator is None and num_processes is None):
        check_devices()
        return
    if jax.distributed.is_initialized():
        return
    if not _setting("jax_enable_preemption_service"):
        raise ProcessError(
            "JAX_ENABLE_PREEMPTION_SERVICE is off, by which several processes agree "
            "on the step after which to stop; leave it unset"
        )
    if coordinator == "auto":
        environment.pop("JAX_COORDINATOR_ADDRESS", None)
        _join(seconds, "the processes of this job", {})
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise ProcessError(
            "a run of several processes needs all three: JAX_COORDINATOR_ADDRESS="
            f"{coordinator}, JAX_NUM_PROCESSES={num_processes}, "
            f"JAX_PROCESS_ID={process_id}"
        )
    if not 0 <= process_id < num_processes:
        raise ProcessError(
            f"JAX_PROCESS_ID={process_id} is outside 0..{num_processes - 1} "
            f"(JAX_NUM_PROCESSES={num_processes})"
        )
    host, port = _split_address(coordinator)
    if process_id == 0:
        _check_port_is_free(port)
    else:
        _wait_for_coordinator(host, port, seconds)
    arguments: dict[str, Any] = {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
        # Otherwise JAX would use one GPU per process under Slurm.
        "cluster_detection_method": "deactivate",
    }
    _join(seconds, f"{num_processes} processes at {coordinator}", arguments)


def check_device_is_there() -> None:
    """Refuses devices that JAX is told to use and does not find.

    Raises:
      MachineError: With what JAX says.
    """
    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # an assertion without a driver
        reason = (str(error).splitlines() or ["no driver"])[0]
        raise MachineError(
            f"JAX_PLATFORMS={_setting('jax_platforms')!r}: no such device here "
            f"({reason}); allowed: cpu, or unset to take what there is"
        ) from error


def check_devices() -> None:
    """Refuses a setting of JAX that nothing can be computed with.

    Raises:
      MachineError: If the devices that JAX is told to use are not there, or if it
        computes in 64 bits or does not compile.
    """
    check_device_is_there()
    if _setting("jax_disable_jit"):
        raise MachineError(
            "JAX compiles nothing (JAX_DISABLE_JIT), and graphs of static shape are "
            "built by compiled programs; unset it"
        )
    if jax.dtypes.canonicalize_dtype(np.float64) == np.float64:
        raise MachineError(
            "JAX computes in 64 bits (JAX_ENABLE_X64), and models in 32; unset it, or "
            "call with jax.enable_x64(False)"
        )


def num_processes() -> int:
    """Counts the processes of this run."""
    return jax.process_count()


def process_index() -> int:
    """Returns the number of this process, from 0."""
    return jax.process_index()


def is_main_process() -> bool:
    """Tells whether this process is the one that logs, prints and writes."""
    return process_index() == 0


def wait_for_all(name: str) -> None:
    """Waits until every process has reached the point called `name`."""
    if num_processes() > 1:
        with jax.transfer_guard("allow"):
            multihost_utils.sync_global_devices(name)


def from_main(compute: Callable[[], bytes | np.ndarray]) -> np.ndarray:
    """Computes on process 0 and sends the result, or the failure, to all.

    Args:
      compute: Returns bytes, or an array uint8 [byte]; called on process 0 alone.

    Returns:
      The bytes, uint8 [byte], the same on every process.

    Raises:
      ProcessError: On the other processes, with the message of the exception that
        `compute` raised on process 0, where that exception is raised itself.
    """
    if num_processes() == 1:
        return _as_bytes(compute())
    content: np.ndarray = np.zeros(0, np.uint8)
    error: Exception | None = None
    if is_main_process():
        try:
            content = _as_bytes(compute())
        except Exception as failure:  # whatever it is, the others must not wait for it
            error, content = failure, _as_bytes(str(failure).encode())
    header = np.asarray([error is not None, *divmod(content.size, 2**31)], np.uint32)
    failed, high, low = (int(n) for n in multihost_utils.broadcast_one_to_all(header))
    size = high * 2**31 + low
    if not is_main_process():
        content = np.zeros(size, np.uint8)
    for start in range(0, size, _CHUNK_BYTES):
        chunk = content[start : start + _CHUNK_BYTES]
        received = multihost_utils.broadcast_one_to_all(chunk)
        if not is_main_process():
            chunk[:] = received
    if error is not None:
        raise error
    if failed:
        raise ProcessError(f"process 0 failed: {content.tobytes().decode()}")
    return content


def gather_rows(tree: Tree) -> Tree:
    """Joins the rows of all processes, [row, ...] each, to [process * row, ...].

    Args:
      tree: Tree of numpy arrays, of the same shapes on every process.

    Returns:
      Numpy arrays, the same on every process.
    """
    if num_processes() == 1:
        return tree
    return multihost_utils.process_allgather(tree, tiled=True)


def check_same(facts: Mapping[str, str]) -> None:
    """Checks that all processes have the same facts.

    Args:
      facts: Texts by name, such as the configuration.

    Raises:
      ProcessError: On every process if some differ from process 0. The message has
        the numbers of those and, on these, the difference.
    """
    if num_processes() == 1:
        return
    shared = from_main(lambda: json.dumps(dict(facts)).encode())
    theirs = json.loads(shared.tobytes())
    lines = []
    for name, own in facts.items():
        if own != theirs.get(name):
            lines += [f"  {name} here:", _indent(own)]
            lines += [f"  {name} on process 0:", _indent(theirs.get(name, "none"))]
    differs = multihost_utils.process_allgather(np.asarray([bool(lines)]))
    if differs.any():
        numbers = ", ".join(str(n) for n in np.flatnonzero(differs.reshape(-1)))
        raise ProcessError(
            "all processes must be started with the same command, code and data; "
            f"different from process 0: process {numbers}\n" + "\n".join(lines)
        )


class Agreed(SystemExit):
    """Ends every process at the same place, so that each can wait for the others."""


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends this process together with the others when the block ends.

    At the end, and after `Agreed`, this process waits for the others, because process 0
    must be the last. After any other exception it ends at once with
    code 1, and the others notice. Does nothing for a single process.
    """
    try:
        yield
    except SystemExit as stop:
        if jax.distributed.is_initialized():
            if isinstance(stop, Agreed):
                leave(patience=10)
            _end(stop.code)
        raise
    except BaseException:  # also KeyboardInterrupt: the others wait for this one
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        _end(1)
    leave()


def leave(patience: float | None = None) -> None:
    """Waits until all processes are done; handles signals meanwhile.

    Args:
      patience: Seconds to wait at most; None for no limit.
    """
    if not jax.distributed.is_initialized():
        return

    def wait() -> None:
        # A barrier of devices, and JAX's own barrier at exit, give up too soon.
        everyone = set(range(num_processes()))
        sync_global_processes("leave", timeout=_LEAVE_SECONDS, processes=everyone)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    end = time.monotonic() + (patience if patience is not None else np.inf)
    while waiting.is_alive() and time.monotonic() < end:
        waiting.join(0.2)
    _Watcher.say("")


def _end(code: int | str | None) -> None:
    """Ends this process of several now, without JAX's wait at exit."""
    if isinstance(code, str):
        print(f"process {process_index()}: {code}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(bool(code)))


class _Watcher:
    """A shell beside this process that prints a message when this process has ended.

    JAX ends a process whose peer has died by abort(), from a thread of its own, so that
    Python cannot print anything.
    """

    _pipe: IO[bytes] | None = None

    @classmethod
    def say(cls, line: str) -> None:
        """Sets the line to print should this process end now; empty for none."""
        if cls._pipe is None and line:
            cls._pipe = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHER],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            ).stdin
        if cls._pipe is not None:
            with contextlib.suppress(OSError):
                cls._pipe.write(f"{line}\n".encode())
                cls._pipe.flush()


def _join(seconds: float, whom: str, arguments: dict[str, Any]) -> None:
    """Connects to the others; ends this process if they do not come in time."""
    advice = (
        f"error: could not join {whom} within {seconds:g} s. Start the same command "
        "JAX_NUM_PROCESSES times, each with its own JAX_PROCESS_ID from 0; look in the "
        "other logs for one that ended early, or for an id or a number of processes "
        "that is not the same; NCGN_JOIN_SECONDS sets how long to wait"
    )

    def give_up() -> None:
        # JAX would call abort() and print a trace of its C++ code.
        _Watcher.say("")
        print(advice, file=sys.stderr, flush=True)
        os._exit(1)

    _Watcher.say(advice)
    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=int(seconds) + 60,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        _Watcher.say("")
        raise ProcessError(f"could not join {whom}: {error}") from error
    finally:
        timer.cancel()
    local, count = jax.local_device_count(), jax.process_count()
    if jax.device_count() != local * count:
        _Watcher.say("")
        raise ProcessError(
            f"process {process_index()} has {local} devices, but {count} processes "
            f"have {jax.device_count()}; every process needs the same number"
        )
    _Watcher.say(
        f"error: process {process_index()} of {count} (on {socket.gethostname()}) has "
        "ended. If no error of its own stands above, another process ended first: look "
        "in the other logs for the reason. Then start the same command again on all "
        "of them; the run resumes from its last checkpoint"
    )


def _setting(name: str) -> Any:
    """Returns one of JAX's settings, which no type lists."""
    return getattr(jax.config, name)


def _read_number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise ProcessError(f"{variable}={text!r} is not a whole number") from error


def _split_address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ProcessError(
            f"the coordinator {coordinator!r} is not host:port, such as 10.0.0.1:1234"
        )
    return host.strip("[]"), int(port)


def _check_port_is_free(port: int) -> None:
    with socket.socket() as probe:
        # JAX's service sets this too; a port that was just released counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ProcessError(
                f"process 0 cannot listen at port {port} ({error.strerror}); choose "
                "another in JAX_COORDINATOR_ADDRESS, for all processes"
            ) from error


def _wait_for_coordinator(host: str, port: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError as error:
            if time.monotonic() < end:
                time.sleep(0.2)
                continue
            raise ProcessError(
                f"process 0 does not answer at {host}:{port} after {seconds:g} s "
                f"({error}); is it running there, with the same "
                "JAX_COORDINATOR_ADDRESS, and does a firewall let this port through?"
            ) from error
        return


def _as_bytes(content: bytes | np.ndarray) -> np.ndarray:
    if isinstance(content, bytes):
        return np.frombuffer(content, np.uint8)
    return content


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
