"""The manifest of a batch: a line of JSON for every picture, written when the picture is on the
disk. What it says is what was done.

Knows lines and files; nothing of prompts or how pictures are made.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from scalekv.cli.pictures.folder import CannotWrite
from scalekv.kv.errors import UserError

STEM, SUFFIX = "manifest", ".jsonl"

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def manifest_name(shard: tuple[int, int] | None) -> str:
    """The file's name: "manifest.jsonl", or "manifest-2-of-8.jsonl"; every shard has its own, so
    that machines that share a folder never write to the same file."""
    part = "" if shard is None else f"-{shard[0]}-of-{shard[1]}"
    return f"{STEM}{part}{SUFFIX}"


@dataclass(frozen=True)
class ManifestEntry:
    """What a line says of a picture; `job` is what it was asked for by, see `Job.mark`."""

    file: str
    job: str
    size: int


def read_manifests(folder: Path) -> dict[str, ManifestEntry]:
    """The last entry of every file, from all manifests in a folder, by file name.

    A last line without its end is one whose writer was killed, or is writing it: not counted.

    Raises:
        UserError: a manifest cannot be read, or a line in it that is no entry.
    """
    entries: dict[str, ManifestEntry] = {}
    for path in sorted(folder.glob(f"{STEM}*{SUFFIX}")):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"cannot read the manifest: {error.strerror}",
                where=str(path),
                fix="make it readable, or name another folder with --out DIR",
            ) from None
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            entry = _entry(line, f"{path}, line {number}")
            entries[entry.file] = entry
    return entries


def _entry(line: bytes, where: str) -> ManifestEntry:
    try:
        content = json.loads(line)
        entry = ManifestEntry(str(content["file"]), str(content["job"]), int(content["bytes"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            "the manifest was changed: this line is no entry",
            where=where,
            rule="one JSON object a line with file, job and bytes",
            fix="take the line out; its picture is recognised without it",
        ) from None
    return entry


class Manifest:
    """A manifest being written: locked, so that no two runs make the same pictures.

    Args:
        path: made where it is not there.

    Attributes:
        lines: that it holds.
        locked: False where the file system has no locks.

    Raises:
        UserError: another run is writing to it, or it cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.locked = True
        try:
            while not self._open():
                pass
        except OSError as error:
            raise self._refusal(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Lets it go; a manifest without a line is removed."""
        if os.fstat(self._file).st_size == 0:
            self.path.unlink(missing_ok=True)
        os.close(self._file)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Writes a line, and returns when it is on the disk.

        Raises:
            CannotWrite: there is no more space; then nothing of it is in the file.
        """
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        before = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, before)
            raise CannotWrite(self.path, error) from error
        self.lines += 1

    def _open(self) -> bool:
        """Opens, locks and mends the file; False: it was removed meanwhile by the run before."""
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock()
            if os.fstat(self._file).st_nlink == 0:
                os.close(self._file)
                return False
            self.lines = self._cut_torn_line()
        except BaseException:
            os.close(self._file)
            raise
        return True

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "another run is writing to this manifest",
                where=str(self.path),
                rule="one run a manifest",
                fix="wait for it, or share the work: --shard 1/2 and --shard 2/2",
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self.locked = False

    def _cut_torn_line(self) -> int:
        """Drops a line whose writer was killed; returns how many are whole."""
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(self._file, whole)
        return data.count(b"\n")

    def _refusal(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write the manifest: {error.strerror}",
            where=str(self.path),
            rule="a file that can be written to, with space left",
            fix="name another folder with --out DIR",
        )
