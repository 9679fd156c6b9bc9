"""Tells how much memory may be asked for, and refuses more before it is."""

import resource
from collections.abc import Mapping
from pathlib import Path

from ncgn_jax.faults import DataError

# The rest is for the program itself and for what training asks for.
_SHARE = 0.8
_GROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Returns the memory that the machine, the group and the user's limit leave."""
    found = [_of_machine(), _of_group(), _of_limit()]
    return min((size for size in found if size is not None), default=2**63)


def require_bytes(
    needed: int,
    what: str,
    ways_out: str,
    proposal: Mapping[str, float | str] | None = None,
    free: int | None = None,
) -> None:
    """Refuses data that would not fit.

    Args:
      needed: Bytes.
      what: What takes them.
      ways_out: Fields that need less.
      proposal: One of them with a value, for `DataError`.
      free: Bytes that were free before any of them was taken, None to find them.

    Raises:
      DataError: If that is more than most of what is free.
    """
    free = available_bytes() if free is None else free
    if needed > _SHARE * free:
        raise DataError(
            f"{what} take {needed / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free; "
            f"allowed: {_SHARE:.0%} of them, by {ways_out}",
            proposal,
        )


def _of_machine() -> int | None:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _of_group() -> int | None:
    most, used = (_lines(_GROUP / f"memory.{name}") for name in ("max", "current"))
    if not most or not used or not most[0].isdigit():
        return None
    # What the group holds of files is given up when memory is needed.
    files = [line.split() for line in _lines(_GROUP / "memory.stat")]
    spare = sum(int(n) for name, n in files if name == "inactive_file")
    return max(int(most[0]) - int(used[0]) + spare, 0)


def _of_limit() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return None
    pages = _lines(Path("/proc/self/statm"))
    used = int(pages[0].split()[0]) * resource.getpagesize() if pages else 0
    return max(soft - used, 0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
