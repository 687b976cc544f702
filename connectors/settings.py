"""Settings as they lie outside: the TOML file, the environment, and the flags of a command.

Laws:

1. One file is read: the one asked for, else the one `PENSTOCK_CONFIG` names, else `penstock.toml`
   of the working folder, which alone may be absent.
2. Whatever the file holds, the result is its tables or one `SettingError` of one line that names
   the file, the line where there is one, and the cure.

Not here: what the settings are and what they may be (`core.config`).
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core import config
from core.errors import SettingError
from core.plain import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from core.sections import Settings

DEFAULT_FILE = "penstock.toml"
FILE_BYTES_MAX = 1_048_576


class Loaded(NamedTuple):
    """Settings, and where each came from.

    Attributes:
        settings: All settings, within their bounds.
        origins: Dotted name → file, variable or flag, for each setting that is not a default.
        file: The TOML file that was read, if any.
    """

    settings: Settings
    origins: dict[str, str]
    file: str | None


def load(
    file: str | None = None,
    flags: Sequence[config.Layer] = (),
    env: Mapping[str, str] | None = None,
) -> Loaded:
    """Read the settings of this run.

    Args:
        file: TOML file to read; `None` looks for one.
        flags: What the command line says, one layer for each flag, named as the user typed it:
            `("--rate", {"dam": {"rate_hz": 500}})`.
        env: Environment variables; `None` takes those of the process. Empty, it leaves the file
            and the flags alone to speak.

    Returns:
        The settings, their origins, and the file read.

    Raises:
        SettingError: The file cannot be read, or a setting is unknown or out of bounds.
    """
    env = os.environ if env is None else env
    asked = file if file is not None else env.get("PENSTOCK_CONFIG") or None
    layers: list[config.Layer] = []
    name = asked if asked is not None else DEFAULT_FILE
    if asked is not None or os.path.lexists(name):
        layers.append((name, read_toml(name)))
    layers.append((config.ENVIRONMENT, config.from_environment(env)))
    layers.extend(flags)
    read = name if len(layers) > 1 + len(flags) else None
    return Loaded(config.decode(layers), config.origins(layers), read)


def read_toml(file: str) -> dict[str, Any]:
    """Read a TOML file of at most `FILE_BYTES_MAX` bytes.

    Args:
        file: Its path.

    Returns:
        Its tables, not yet checked.

    Raises:
        SettingError: It is missing, unreadable, too large, not UTF-8 or not TOML.
    """
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _error(file, f"cannot be read: {why}; name a readable TOML file") from error
    if len(data) > FILE_BYTES_MAX:
        raise _error(file, f"larger than {FILE_BYTES_MAX} bytes; name a file of settings")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _error(file, f"line {line}: not UTF-8; save it as UTF-8") from error
    except RecursionError as error:
        raise _error(file, "nested too deeply; settings are one level of tables") from error
    except ValueError as error:
        # A `TOMLDecodeError` says where in its text; a number of 5,000 digits is a `ValueError`.
        last = data.rstrip().count(b"\n") + 1
        why = str(error).replace("at end of document", f"at line {last}, the last")
        raise _error(file, f"not TOML: {why}") from error


def _error(file: str, text: str) -> SettingError:
    return SettingError(f"{plain(file)}: {plain(text)}")
