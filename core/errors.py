"""Every error Penstock raises, in one tree.

    PenstockError
    ├── UsageError            what was asked for cannot be done as asked        exit 2
    │   └── SettingError      a setting is unknown, mistyped or out of bounds
    └── RunError              the request was fine, carrying it out failed      exit 1
        ├── SourceError       an input cannot be opened, read or resumed
        └── SinkError         an output cannot be written

What a peer sends is never an error here: packets that do not decode become a named rejection
(`core.reasons`), and the run goes on. A message names the file or the setting first and the cure
last, because it is printed to the user as one line.
"""

from __future__ import annotations


class PenstockError(Exception):
    """Base of all errors that end a command with one line for the user."""

    exit_code = 1


class UsageError(PenstockError):
    """The command or its settings do not make sense; nothing was started."""

    exit_code = 2


class SettingError(UsageError):
    """A setting is unknown, of the wrong type, or outside its bounds."""


class RunError(PenstockError):
    """The run could not start or could not go on."""


class SourceError(RunError):
    """An input cannot be opened, read, or resumed from its recovered position."""


class SinkError(RunError):
    """An output cannot be written; the run stops rather than lose records."""
