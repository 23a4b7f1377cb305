"""Files of data sets on the hub, in the layout of its cache. Knows the hub's protocol through
`transfer`; nothing of what is in the files. No torch."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from scalekv.infinity_patch.files.cache_layout import name_in_cache, partial_file, point_to
from scalekv.infinity_patch.files.hashes import Checksum
from scalekv.infinity_patch.files.hub import hub_cache
from scalekv.infinity_patch.files.transfer import Damaged, DownloadRefused, listing, transfer

LOCK = "scalekv.lock"


def dataset_files(repo: str, pattern: str, *, revision: str = "main") -> list[Path]:
    """The files of a data set that match a pattern, by name; fetched where the cache has none.

    The hub is asked only where no revision of that name was fetched before, or a file of it is not
    whole any more. Every file has the hash that it is kept under. Of processes that begin together
    one fetches, and the others wait for it.

    Raises:
        DownloadRefused: the hub says no or is not reached, there is no such file, one arrived
            damaged, or the cache cannot be written.
    """
    folder = hub_cache() / ("datasets--" + repo.replace("/", "--"))
    found = _kept(folder, pattern, revision)
    if found:
        return found
    try:
        with _alone(folder):
            return _kept(folder, pattern, revision) or _fetched(folder, repo, pattern, revision)
    except OSError as error:
        raise DownloadRefused(
            f"cannot write the files: {error.strerror or error}",
            where=str(error.filename or folder),
            rule="what is fetched is kept in the hub's cache",
            fix="make the folder writable, or set HF_HOME to another",
        ) from error


def _kept(folder: Path, pattern: str, revision: str) -> list[Path]:
    """The files in the cache; none where there are none, or one is not whole."""
    known = folder / "refs" / revision
    if not known.is_file():
        return []
    root = folder / "snapshots" / known.read_text(encoding="utf-8").strip()
    found = sorted(root.glob(pattern))
    return found if all(map(_whole, found)) else []


def _fetched(folder: Path, repo: str, pattern: str, revision: str) -> list[Path]:
    from huggingface_hub import constants

    commit, offered = listing(repo, revision, constants.ENDPOINT, "dataset")
    wanted = [entry for entry in offered if fnmatchcase(entry[0], pattern)]
    if not wanted:
        raise DownloadRefused(
            f"the hub has no {pattern} in {repo}",
            where=f"{constants.ENDPOINT}/datasets/{repo}",
            rule="the data set has changed, or HF_ENDPOINT names another hub",
        )
    for name, size, checksum in wanted:
        url = f"{constants.ENDPOINT}/datasets/{repo}/resolve/{commit}/{name}"
        blob = folder / "blobs" / checksum.digest
        partial = partial_file(folder, name, checksum.digest)
        for place in (blob, partial):
            place.parent.mkdir(parents=True, exist_ok=True)
        try:
            if not (blob.is_file() and checksum.fits(blob, size)):
                transfer(url, partial, blob, size, checksum, lambda _arrived: None)
        except Damaged as damage:
            raise DownloadRefused(
                f"{name} arrived damaged: {damage}",
                where=url,
                rule="a file must have the size and the hash that the hub states",
            ) from damage
        point_to(blob, folder / "snapshots" / commit / name)
    name_in_cache(folder, revision, commit)
    return sorted(folder / "snapshots" / commit / name for name, _, _ in wanted)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other process is in here."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _whole(file: Path) -> bool:
    """Whether a file in the cache has the hash it is kept under, where that is known."""
    stated = Checksum.of_cached(file)
    return stated is None or stated.fits(file, file.stat().st_size)
