"""Ends a run that is asked to: SIGTERM saves, and the run exits as resumable.

Schedulers send SIGTERM some time before they take a machine away. Where state would be
lost, in the training loop, the signal is kept until the next step is finished and the
loop asks for it (`reached`); everywhere else it ends the run at once, since all that
was finished is on disk. With several processes JAX's preemption service tells all of
them of a signal to one, and they agree on the step after which to stop.

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
from collections.abc import Iterator

from jax.experimental import multihost_utils

from ncgn_jax import processes


class Preempted(SystemExit):
    """The end of a run that was asked to stop; exit code 0.

    Attributes:
      step: Step that was saved because of it, None if there was nothing to save.
    """

    def __init__(self, step: int | None = None) -> None:
        super().__init__(0)
        self.step = step

    def __str__(self) -> str:
        saved = "" if self.step is None else f", step {self.step} is saved"
        return f"stopped by SIGTERM{saved}: resumable, run the same command again"


class Preemption:
    """Listens for SIGTERM while it is entered; not entered, it never hears of one."""

    def __init__(self) -> None:
        self._listening = False
        self._postponed = False
        self._requested = False
        self._former = None

    def __enter__(self) -> "Preemption":
        # With several processes JAX's service listens; it was there first.
        if processes.num_processes() == 1:
            self.stop_at_once()
        return self

    def __exit__(self, *exception) -> None:
        if self._listening:
            signal.signal(signal.SIGTERM, self._former or signal.SIG_DFL)
            self._listening = False

    def stop_at_once(self) -> None:
        """Ends this process by `Preempted` when SIGTERM comes, unless postponed.

        With several processes to be called when the last training loop is behind them.
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

        With several processes all must ask after every call; the answer is the same.

        Args:
          call: Number of the call, of one step or more; rises by 1.
        """
        if processes.num_processes() > 1:
            return multihost_utils.reached_preemption_sync_point(call)
        return self._requested

    def _handle(self, number, frame) -> None:
        del number, frame
        self._requested = True
        if not self._postponed:
            raise Preempted
