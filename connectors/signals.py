"""Signals: a first SIGINT or SIGTERM drains, a second one ends us, SIGHUP reads settings again.

Unhandled, either of the two would kill Bytewax 0.21 without a call of `close`, and with it what was
accepted; the first ends the sources instead.

What a signal asks for is done in a thread of its own: whom the signal interrupts may hold the lock
of what is to be called, as a source does that waits for an event, and would wait for itself for
ever.
"""

from __future__ import annotations

import signal
import threading
from _thread import start_new_thread
from collections.abc import Callable
from types import FrameType
from typing import Any


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
        start_new_thread(stopping.set, ())

    return _restorer({each: signal.signal(each, stop) for each in numbers})


def reload_on_hangup(reload: Callable[[], None]) -> Callable[[], None]:
    """Call something on each SIGHUP, one call after the other.

    Handlers can be installed by the main thread only; in any other nothing happens.

    Args:
        reload: What reads the settings again; is called in another thread.

    Returns:
        A function that puts back the handler there was before.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    one_at_a_time = threading.Lock()

    def in_turn() -> None:
        with one_at_a_time:
            reload()

    def hear(number: int, frame: FrameType | None) -> None:
        del number, frame
        start_new_thread(in_turn, ())

    return _restorer({signal.SIGHUP: signal.signal(signal.SIGHUP, hear)})


def _restorer(before: dict[signal.Signals, Any]) -> Callable[[], None]:
    def restore() -> None:
        for each, handler in before.items():
            # `None` is a handler that was not installed from Python: it cannot be put back.
            signal.signal(each, signal.SIG_DFL if handler is None else handler)

    return restore
