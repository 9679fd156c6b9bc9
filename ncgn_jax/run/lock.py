"""Lets one run at a time use a folder, by a lock that does not outlive its process.

The JSON in `workdir/lock` describes the holder. If the holder runs on the same machine,
its process is looked up. If it runs on another machine, or in another container, it
counts as alive as long as it rewrites the file, which it does every few seconds. The
lock of a dead process is taken over with a message. The lock of a live one makes a new
run fail with the holder's name and the time since when. A holder that was suspended
for so long that its lock was taken over fails at its next `check`.

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
# A process that cannot be looked up counts as dead after so long without a beat.
PATIENCE_SECONDS = 45.0
_FILE = "lock"

Holder = dict[str, Any]  # content of a lock file


@contextlib.contextmanager
def hold(
    workdir: str | Path,
    *,
    beat_seconds: float = BEAT_SECONDS,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Iterator["Lock"]:
    """Holds a folder for this run; makes it if absent.

    With several processes, process 0 holds it for all. If this process holds the folder
    already, it stays held.

    Args:
      workdir: Folder of the run.
      beat_seconds: Seconds between two beats, that is, rewrites of the file.
      patience_seconds: Longest wait for a beat of a process that cannot be looked up.

    Yields:
      The lock, to `check` before anything is written.

    Raises:
      LockError: If a live process holds it.
      ProcessError: On processes other than 0, if process 0 raised an error.
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
    """A lock file of a folder, held or not."""

    def __init__(self, path: Path, beat_seconds: float) -> None:
        self._path = path
        self._beat_seconds = beat_seconds
        self._token: str | None = None
        self._since = ""
        self._stop = threading.Event()
        self._beats: threading.Thread | None = None

    def acquire(self, patience_seconds: float) -> None:
        """Takes the lock as `hold` does."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        self._token = secrets.token_hex(8)
        while not self._create():
            content = _read(self._path)
            holder = _parse(content)
            if _identity(holder) == _identity(self._about(0)):
                # The object that took it releases it.
                self._token = None
                return
            if content is None:
                continue
            if self._is_alive(content, holder, patience_seconds):
                self._token = None
                raise LockError(self._refusal(holder))
            with _guard(self._path.parent):
                if _read(self._path) == content:
                    # A kill may have left the file that was to replace the lock.
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
        """Checks that the lock is still there and has not been taken over.

        Raises:
          LockError: If it was taken over or deleted.
        """
        if self._token is None:
            return
        holder = _parse(_read(self._path))
        if holder.get("token") != self._token:
            raise LockError(
                f"{self._path.parent} was taken over by another run "
                f"({_describe(holder)}) while this one gave no sign of life; stopping, "
                "so that two runs do not write the same files"
            )

    def release(self) -> None:
        """Deletes the lock file if this object holds it."""
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
        """Makes the file; returns False if there is one already."""
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(self._about(0), file)
        return True

    def _write(self, beat: int) -> None:
        """Replaces the file in one step."""
        # The name tells the next holder what to remove should this process be killed.
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
            # A run survives a file system that is unavailable for a while.
            with contextlib.suppress(OSError), _guard(self._path.parent):
                if _parse(_read(self._path)).get("token") != self._token:
                    return
                self._write(beat)

    def _is_alive(self, content: bytes, holder: Holder, patience: float) -> bool:
        """Looks up the holder, or waits for a beat of it."""
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

    def _refusal(self, holder: Holder) -> str:
        return (
            f"{self._path.parent} is in use by another run ({_describe(holder)}). Wait "
            "for it, stop it, or choose another --workdir"
        )


def _describe(holder: Holder) -> str:
    """Describes the holder of a lock."""
    if "pid" not in holder:
        return "an unknown process"
    return (
        f"process {holder['pid']} of {holder.get('user')} on {holder.get('host')}, "
        f"since {holder.get('since')}"
    )


def _identity(holder: Holder) -> list[object]:
    """Identifies a process among all that ever were; an unknown one equals none."""
    return [holder.get(name, object()) for name in ("machine", "pid", "started")]


def _start_of(pid: int) -> str | None:
    """Returns when a process of this machine began; None if it has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass  # it belongs to another user
    with contextlib.suppress(OSError):
        # The name, in brackets, may contain spaces. A zombie (Z) has ended.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    return "unknown"


def _machine() -> str:
    """Identifies the boot and the container within which process ids are unique."""
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


def _parse(content: bytes | None) -> Holder:
    """Reads a lock; {} if it is absent, cut off or names no process."""
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    named = isinstance(found, dict) and isinstance(found.get("pid"), int)
    return found if named and "started" in found else {}


@contextlib.contextmanager
def _guard(folder: Path) -> Iterator[None]:
    """Lets one process at a time change the lock, where the file system supports it.

    Elsewhere, if two change it at once, `check` fails for the loser.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
