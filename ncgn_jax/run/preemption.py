"""Saves and ends a run as resumable when it receives SIGTERM.

Schedulers send SIGTERM some time before they take a machine away. In the training loop,
where state would be lost, the signal is kept until the next step is finished and the
loop queries it (`reached`). Everywhere else it ends the run at once, because all
finished work is on disk. With several processes, JAX's preemption service makes them
agree on the step after which to stop, whichever of them received the signal.

Example:
  >>> import os, signal
  >>> from ncgn_jax.run.preemption import Preempted, Preemption
  >>> try:
  ...     with Preemption() as preemption, preemption.postponed():
  ...         os.kill(os.getpid(), signal.SIGTERM)
  ...         print(preemption.reached(1))
  ... except Preempted as stop:
  ...     print(stop)
  True
  stopped by SIGTERM: resumable, run the same command again
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from jax.experimental import multihost_utils

from ncgn_jax import processes


class Preempted(SystemExit):
    """Ends a run that received SIGTERM, with exit code 0.

    Attributes:
      step: Step that was saved for this reason, None if there was nothing to save.
    """

    def __init__(self, step: int | None = None) -> None:
        super().__init__(0)
        self.step = step

    def __str__(self) -> str:
        saved = "" if self.step is None else f", step {self.step} is saved"
        return f"stopped by SIGTERM{saved}: resumable, run the same command again"


class Preemption:
    """Handles SIGTERM while it is entered."""

    def __init__(self) -> None:
        self._listening = False
        self._postponed = False
        self._requested = False
        self._former: Callable[[int, FrameType | None], object] | int | None = None

    def __enter__(self) -> "Preemption":
        # With several processes, JAX's service handles the signal.
        if processes.num_processes() == 1:
            self.stop_at_once()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._listening:
            signal.signal(signal.SIGTERM, self._former or signal.SIG_DFL)
            self._listening = False

    def stop_at_once(self) -> None:
        """Makes SIGTERM end this process by `Preempted`, unless postponed.

        With several processes, call it after the last training loop.
        """
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and not self._listening:
            self._former = signal.signal(signal.SIGTERM, self._handle)
            self._listening = True

    @contextlib.contextmanager
    def postponed(self) -> Iterator[None]:
        """Keeps a signal until the end of the block, which then raises `Preempted`."""
        self._postponed = True
        try:
            yield
        finally:
            self._postponed = False
        if self._requested:
            raise Preempted

    def reached(self, call: int) -> bool:
        """Tells whether to save and stop now, after a call of the training step.

        With several processes, all of them must query after every call, and all get the
        same answer.

        Args:
          call: Number of the call, of one step or more; rises by 1.
        """
        if processes.num_processes() > 1:
            return multihost_utils.reached_preemption_sync_point(call)
        return self._requested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._requested = True
        if not self._postponed:
            raise Preempted
