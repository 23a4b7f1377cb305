"""Files that appear whole or not at all, under names that others may be reading.

Knows names and links; nothing of what is in the files.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden path beside `path` to write a file or a folder at, which takes its name at the end.

    Where the block fails, what it wrote is removed and `path` is as it was.
    """
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield hidden
        if hidden.is_file():
            with hidden.open("rb+") as file:
                os.fsync(file.fileno())  # a name is given to what is on the disk
        os.replace(hidden, path)
    finally:
        if hidden.is_dir():
            shutil.rmtree(hidden, ignore_errors=True)
        else:
            hidden.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Writes a file in UTF-8, in place of one of that name; whole at any moment."""
    with replacing(path) as hidden:
        hidden.write_text(text, encoding="utf-8")


def write_hidden(folder: Path, owner: str, content: bytes) -> Path:
    """A new file of a hidden name that begins with `owner`, on the disk when this returns."""
    hidden = folder / f"{owner}{secrets.token_hex(8)}.part"
    # Not tempfile: its files are private to the user whatever the umask says.
    descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    return hidden


def give_name(hidden: Path, path: Path) -> bool:
    """Names a file unless the name is taken, in one step; False: it is."""
    try:
        os.link(hidden, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without hard links: claim the name, then move over the empty claim.
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            return False
        try:
            os.replace(hidden, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return True
