"""Ends a program that is asked to stop before, or after, it has anything to save.

Imports alone take seconds. This module imports nothing that is slow.

Example:
  >>> import signal
  >>> with stops_at_once():
  ...     signal.getsignal(signal.SIGINT).__name__
  '_end'
"""

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# A temporary failure, as sysexits.h has it: neither success nor an error of the run, so
# that a scheduler can start the same command again.
PREEMPTED_CODE = 75
# What shells expect after Ctrl-C.
INTERRUPTED_CODE = 130
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def stops_at_once() -> Iterator[None]:
    """Ends the process with one line if SIGTERM or Ctrl-C comes within the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, _end) for number in SIGNALS}
    try:
        yield
    finally:
        # At its very end Python runs callbacks of libraries, with nothing left to stop.
        atexit.register(_ignore_signals)
        for number, handler in former.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    """Prints the line and ends, whatever is being imported."""
    del frame
    name = signal.Signals(number).name
    line = f"stopped by {name}: nothing was begun, run the same command again\n"
    with contextlib.suppress(OSError):
        os.write(1, line.encode())
    os._exit(PREEMPTED_CODE if number == signal.SIGTERM else INTERRUPTED_CODE)
