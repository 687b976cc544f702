"""SIGINT and SIGTERM: the first ends the sources so that everything drains, the second ends us.

Unhandled, either would kill Bytewax 0.21 without a call of `close`, and with it what was accepted.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType


def stop_on_signals(stopping: threading.Event) -> bool:
    """Set an event on the first SIGINT or SIGTERM, and restore the default for the next one.

    Args:
        stopping: What the sources watch.

    Returns:
        Whether handlers could be installed; only the main thread may.
    """
    if threading.current_thread() is not threading.main_thread():
        return False

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        stopping.set()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)
    return True
