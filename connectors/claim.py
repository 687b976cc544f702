"""The claim of one run on one part of an output folder: its lock, and its start file.

    DIR/.<part>.lock     locked by the process that writes the part; empty
    DIR/.<part>.start    whose files these are, and the first number it gave a file per topic

Laws:

1. At most one process writes a part at a time. The lock ends with the process, however it ends.
2. The start file names the last run that wrote the part: a recovery store, or nobody in
   particular when recovery is off. It is replaced whole.
3. Two recovery stores never have one name, even when one was deleted and made anew in its place;
   only so can "started over after a crash" be told from "started anew".

Not here: what is done with the files (`connectors.files`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets  # noqa: TID251  names a recovery store, which has no content to hash; never a record
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from core.errors import SinkError

if TYPE_CHECKING:
    from pathlib import Path

UNNAMED = "unnamed recovery"
"""Owner of what is written with recovery on when nobody said which store it is."""

_CURES = {
    errno.ENOSPC: "free space there or choose another folder",
    errno.EDQUOT: "free space there or choose another folder",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) or rotate after fewer rows",
    errno.EACCES: "give this user the right to write there or choose another folder",
    errno.EPERM: "give this user the right to write there or choose another folder",
    errno.EROFS: "choose a folder on a writable file system",
    errno.ENOTDIR: "remove the file that lies where a folder belongs or choose another folder",
    errno.EEXIST: "remove the file that lies where a folder belongs or choose another folder",
    errno.EMFILE: "raise the limit on open files (ulimit -n) or use fewer shards",
}


def explained(error: OSError, path: Path) -> SinkError:
    """Return an error of the operating system as one line that names the file and the cure.

    Args:
        error: What failed.
        path: The file, when the error itself does not name one.
    """
    code = error.errno or 0
    what = os.strerror(code) if code else str(error).partition("\n")[0]
    cure = _CURES.get(code, "check the disk or choose another folder")
    return SinkError(f"{error.filename or path}: {what}; {cure}")


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def recovery_id(folder: Path) -> str:
    """Return the name of a recovery store, which is written into its folder when first asked for.

    Args:
        folder: Folder of the recovery store; must exist.

    Raises:
        SinkError: The folder cannot be read or written.
    """
    path = folder / "store-id"
    mine = folder / f".store-id-{secrets.token_hex(8)}"
    try:
        if not path.exists():
            mine.write_text(secrets.token_hex(16))
            # A link appears whole or not at all, and never replaces that of another process.
            with suppress(FileExistsError):
                path.hardlink_to(mine)
            mine.unlink()
        return path.read_text()
    except OSError as error:
        raise explained(error, path) from error


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a start file.

    Attributes:
        owner: Name of the recovery store, `UNNAMED`, or empty when recovery is off.
        first: First number this owner gave a file, per topic that had files before; else 1.
    """

    owner: str
    first: dict[str, int]


class Claim:
    """One process's right to write one part of a folder.

    Args:
        folder: The output folder; must exist.
        part: Name of the part.
        durable: Whether what is written must be on disk before it counts.

    Raises:
        SinkError: Another process writes the part.
        OSError: The lock cannot be made or taken.
    """

    def __init__(self, folder: Path, part: str, *, durable: bool) -> None:
        self._path = folder / f".{part}.start"
        self._durable = durable
        lock = folder / f".{part}.lock"
        self._lock = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise SinkError(
                f"{folder}: another process writes here; end it or choose another folder"
            ) from error

    def read(self) -> Start | None:
        """Return the start file, or `None` when there is none.

        Raises:
            SinkError: It is not a start file.
            OSError: It cannot be read.
        """
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Start)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise SinkError(f"{self._path}: not a start file; choose another folder") from error

    def write(self, start: Start) -> None:
        """Replace the start file.

        Raises:
            OSError: It cannot be written.
        """
        temporary = self._path.with_suffix(".start.tmp")
        temporary.write_bytes(msgspec.json.encode(start))
        if self._durable:
            sync(temporary)
        temporary.rename(self._path)
        if self._durable:
            sync(self._path.parent)

    def forget(self) -> None:
        """Remove the start file: nothing its owner wrote is to be removed any more."""
        self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Give up the lock; more than once does no harm."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
