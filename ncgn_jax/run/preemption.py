"""Saves and ends a run as resumable when it receives SIGTERM or Ctrl-C (SIGINT).

Schedulers send SIGTERM some time before they take a machine away. The exit code 75
(`EX_TEMPFAIL`) tells them to start the same command again. In the training loop,
where state would be lost, the signal is kept until the next step is finished and the
loop queries it (`reached`). Everywhere else it ends the run at once, because all
finished work is on disk. A second Ctrl-C ends the process whatever it does. A signal
that comes while the garbage collector runs, whose callbacks swallow what is raised, is
repeated after it. The request is kept until it is obeyed, since other code
may catch everything too. With several processes, JAX's
preemption service makes them agree on the step after which to stop, whichever of them
received SIGTERM.

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
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from jax.experimental import multihost_utils

from ncgn_jax import processes
from ncgn_jax.run.early_stop import INTERRUPTED_CODE, PREEMPTED_CODE, SIGNALS

_REPEAT_SECONDS = 0.02
_Handler = Callable[[int, FrameType | None], object] | int | None


class Preempted(processes.Agreed):
    """Ends a run that received a signal, with an exit code of its own.

    Attributes:
      step: Step that was saved for this reason, None if there was nothing to save.
      signal: The signal.
    """

    def __init__(
        self,
        step: int | None = None,
        received: signal.Signals = signal.SIGTERM,
        code: int = PREEMPTED_CODE,
    ) -> None:
        """Makes the exit.

        Args:
          step: Step that was saved.
          received: The signal.
          code: Exit code for SIGTERM; that for SIGINT is 130.
        """
        super().__init__(code if received == signal.SIGTERM else INTERRUPTED_CODE)
        self.step = step
        self.signal = received

    def __str__(self) -> str:
        saved = "" if self.step is None else f", step {self.step} is saved"
        name = self.signal.name
        return f"stopped by {name}{saved}: resumable, run the same command again"


class Preemption:
    """Handles SIGTERM and SIGINT while it is entered."""

    def __init__(self, code: int = PREEMPTED_CODE) -> None:
        """Makes a handler.

        Args:
          code: Exit code after SIGTERM.
        """
        self._code = code
        self._postponed = False
        self._is_repeated = False
        self._collects = False
        self._requested: signal.Signals | None = None
        self._former: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> "Preemption":
        # With several processes, JAX's service handles the signal.
        if processes.num_processes() == 1:
            self.stop_at_once()
        return self

    def __exit__(self, kind: type | None, *exception: object) -> None:
        for number, former in self._former.items():
            signal.signal(number, former or signal.SIG_DFL)
        if self._former:
            gc.callbacks.remove(self._follow_collector)
        self._former = {}
        if kind is None or kind is SystemExit:
            self.check()

    def check(self) -> None:
        """Raises `Preempted` if a signal was received and what it raised was lost."""
        if self._requested is not None:
            raise self.stopped()

    def stopped(self, step: int | None = None) -> Preempted:
        """Returns the exception that ends the run.

        Args:
          step: Step that was saved for this reason, if any.
        """
        return Preempted(step, self._requested or signal.SIGTERM, self._code)

    def stop_at_once(self) -> None:
        """Makes signals end this process by `Preempted`, unless postponed.

        One that was received before, and lost, ends it now. With several processes,
        call it after the last training loop.
        """
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and not self._former:
            for number in SIGNALS:
                self._former[number] = signal.signal(number, self._handle)
            # First, so that the callbacks of others begin after it.
            gc.callbacks.insert(0, self._follow_collector)
        self.check()

    @contextlib.contextmanager
    def postponed(self) -> Iterator[None]:
        """Keeps a signal until the end of the block, which then raises `Preempted`."""
        self.check()
        self._postponed = True
        try:
            yield
        finally:
            self._postponed = False
        self.check()

    def reached(self, call: int) -> bool:
        """Tells whether to save and stop now, after a call of the training step.

        With several processes, all of them must query after every call, and all get the
        same answer.

        Args:
          call: Number of the call, of one step or more; rises by 1.
        """
        if processes.num_processes() > 1:
            return multihost_utils.reached_preemption_sync_point(call)
        return self._requested is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_second = self._requested == signal.SIGINT and not self._is_repeated
        if number == signal.SIGINT and is_second:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        self._is_repeated = False
        self._requested = signal.Signals(number)
        if self._postponed:
            return
        if self._collects or _loses_exceptions(frame):
            self._is_repeated = True
            again = threading.Timer(_REPEAT_SECONDS, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        raise self.stopped()

    def _follow_collector(self, phase: str, info: dict[str, int]) -> None:
        # Callbacks of weak references, which the collector calls, lose exceptions too,
        # and no frame tells that one of them runs.
        if threading.current_thread() is threading.main_thread():
            self._collects = phase == "start"


def _loses_exceptions(frame: FrameType | None) -> bool:
    """Tells whether code runs that the interpreter calls and whose errors it prints.

    That is a callback of the garbage collector, such as JAX's, or a finaliser.
    """
    callbacks = {getattr(call, "__code__", None) for call in gc.callbacks}
    while frame is not None:
        if frame.f_code in callbacks or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
