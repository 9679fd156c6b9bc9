"""One run a folder: a lock that outlives no process.

`workdir/lock` says in JSON who holds it. A process on the same machine is looked up;
one on another machine, or in another container, is alive as long as it rewrites the
file, which it does every few seconds. The lock of a dead process is taken over with a
message; that of a live one refuses the newcomer and says who holds it and since when.
A holder that was suspended for so long that its lock was taken over hears of it at its
next `check`, and must stop.

Example:
  >>> import tempfile
  >>> from ncgn_jax.run.lock import hold
  >>> workdir = tempfile.mkdtemp()
  >>> with hold(workdir) as lock:
  ...     lock.check()  # still ours
"""

import contextlib
import datetime
import fcntl
import getpass
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ncgn_jax import processes
from ncgn_jax.faults import LockError

BEAT_SECONDS = 10.0
# Without a sign of life for so long, a process that cannot be looked up is dead.
PATIENCE_SECONDS = 45.0
_FILE = "lock"


@contextlib.contextmanager
def hold(
    workdir: str | Path,
    *,
    beat_seconds: float = BEAT_SECONDS,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Iterator["Lock"]:
    """Holds a folder for this run; makes it if need be.

    With several processes, process 0 holds it for all. Held already by this process,
    it stays held.

    Args:
      workdir: Folder of the run.
      beat_seconds: How often to give a sign of life.
      patience_seconds: How long to wait for one from a process that cannot be looked
        up.

    Yields:
      The lock, to `check` before anything is written.

    Raises:
      LockError: If a live process holds it. On processes other than 0, ProcessError.
    """
    lock = Lock(Path(workdir) / _FILE, beat_seconds)

    def acquire() -> bytes:
        lock.acquire(patience_seconds)
        return b""

    processes.from_main(acquire)
    try:
        yield lock
    finally:
        lock.release()


class Lock:
    """The lock file of a folder, held or not."""

    def __init__(self, path: Path, beat_seconds: float = BEAT_SECONDS) -> None:
        self._path = path
        self._beat_seconds = beat_seconds
        self._token: str | None = None
        self._since = ""
        self._stop = threading.Event()
        self._beats: threading.Thread | None = None

    def acquire(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Takes the lock; see `hold`."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        self._token = secrets.token_hex(8)
        while not self._create():
            content = _read(self._path)
            holder = _parse(content)
            if _identity(holder) == _identity(self._about(0)):
                # Whoever took it lets go of it.
                self._token = None
                return
            if content is None:
                continue
            if self._is_alive(content, holder, patience_seconds):
                self._token = None
                raise LockError(self._refusal(holder))
            with _guard(self._path.parent):
                if _read(self._path) == content:
                    # It may have been killed between two of its files.
                    self._partial(holder.get("token")).unlink(missing_ok=True)
                    self._write(0)
                    print(
                        f"{self._path.parent}: taking over the lock of a dead process "
                        f"({_describe(holder)})",
                        flush=True,
                    )
                    break
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    def check(self) -> None:
        """Makes sure that the lock has not been taken over.

        Raises:
          LockError: If it has been, or was deleted.
        """
        if self._token is None:
            return
        holder = _parse(_read(self._path))
        if holder.get("token") != self._token:
            raise LockError(
                f"{self._path.parent} was taken over by another run "
                f"({_describe(holder)}) while this one gave no sign of life; stopping, "
                "so that two do not write the same files"
            )

    def release(self) -> None:
        """Lets go, if this lock is held."""
        if self._token is None:
            return
        self._stop.set()
        if self._beats is not None:
            self._beats.join()
        with _guard(self._path.parent):
            if _parse(_read(self._path)).get("token") == self._token:
                self._path.unlink(missing_ok=True)
        self._token = None

    def _create(self) -> bool:
        """Makes the file; False if there is one."""
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(self._about(0), file)
        return True

    def _write(self, beat: int) -> None:
        """Replaces the file, which is never seen half-written."""
        partial = self._partial(self._token)
        partial.write_text(json.dumps(self._about(beat)), encoding="utf-8")
        partial.replace(self._path)

    def _partial(self, token: str | None) -> Path:
        return self._path.with_name(f"{_FILE}.{token}")

    def _about(self, beat: int) -> dict[str, Any]:
        return {
            "token": self._token,
            "machine": _machine(),
            "pid": os.getpid(),
            "started": _start_of(os.getpid()),
            "host": socket.gethostname(),
            "user": _user(),
            "since": self._since,
            "beat": beat,
        }

    def _beat(self) -> None:
        beat = 0
        while not self._stop.wait(self._beat_seconds):
            beat += 1
            # A file system that is away for a while is not the end of a run.
            with contextlib.suppress(OSError), _guard(self._path.parent):
                if _parse(_read(self._path)).get("token") != self._token:
                    return
                self._write(beat)

    def _is_alive(self, content: bytes, holder: dict, patience: float) -> bool:
        if holder.get("machine") == _machine():
            return _start_of(holder["pid"]) == holder["started"]
        print(
            f"{self._path.parent} has the lock of {_describe(holder)}; waiting up to "
            f"{patience:g} s for a sign of life",
            flush=True,
        )
        end = time.monotonic() + patience
        while time.monotonic() < end:
            time.sleep(min(1.0, patience / 10))
            if _read(self._path) != content:
                return True
        return False

    def _refusal(self, holder: dict) -> str:
        return (
            f"{self._path.parent} is in use by another run ({_describe(holder)}). Wait "
            "for it, stop it, or choose another --workdir"
        )


def _describe(holder: dict) -> str:
    """Says who holds a lock, as far as the file says."""
    if "pid" not in holder:
        return "a process that did not say who it is"
    return (
        f"process {holder['pid']} of {holder.get('user')} on {holder.get('host')}, "
        f"since {holder.get('since')}"
    )


def _identity(holder: dict) -> list:
    """Names a process as no other ever was; different from all if it does not say."""
    return [holder.get(name, object()) for name in ("machine", "pid", "started")]


def _start_of(pid: int) -> str | None:
    """Says when a process of this machine began; None if there is none."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass  # another user's
    with contextlib.suppress(OSError):
        # The name, in brackets, may hold spaces; a zombie (Z) has ended.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    return "unknown"


def _machine() -> str:
    """Names where process ids mean the same: a boot of a kernel, and a container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _parse(content: bytes | None) -> dict:
    """Reads a lock; {} of one that is absent, was cut off or names no process."""
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    named = isinstance(found, dict) and isinstance(found.get("pid"), int)
    return found if named and "started" in found else {}


@contextlib.contextmanager
def _guard(folder: Path) -> Iterator[None]:
    """Lets one process at a time change the lock, where the file system can do that.

    Elsewhere `check` finds out the loser of two that changed it at once.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
