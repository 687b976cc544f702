"""SIGINT and SIGTERM: the first ends the sources so that everything drains, the second ends us.

Unhandled, either would kill Bytewax 0.21 without a call of `close`, and with it what was accepted.
"""

from __future__ import annotations

import signal
import threading
from _thread import start_new_thread
from collections.abc import Callable
from types import FrameType


def stop_on_signals(stopping: threading.Event) -> Callable[[], None]:
    """Set an event on the first SIGINT or SIGTERM, and restore the default for the next one.

    Handlers can be installed by the main thread only; in any other nothing happens.

    Args:
        stopping: What the sources watch.

    Returns:
        A function that puts back the handlers there were before.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        # In a thread: whom the signal interrupts may hold the lock of the event, as a source does
        # that waits, and would wait for itself for ever.
        start_new_thread(stopping.set, ())

    before = {each: signal.signal(each, stop) for each in numbers}

    def restore() -> None:
        for each, handler in before.items():
            # `None` is a handler that was not installed from Python: it cannot be put back.
            signal.signal(each, signal.SIG_DFL if handler is None else handler)

    return restore
