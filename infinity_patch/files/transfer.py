"""Talking to the hub: what a repository holds, and bytes that survive a broken connection.

Knows the hub's protocol through huggingface_hub; nothing of models. No torch.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

from scalekv.infinity_patch.files.hashes import Checksum, Hasher, read_into
from scalekv.kv.errors import UserError

ATTEMPTS = 4
"""Tries in a row without a single byte, before a connection counts as broken."""
WAIT_SECONDS = 1.0
"""Before the second try; doubled before each further one."""
_REPORT_SECONDS = 0.1


class DownloadRefused(UserError):
    """A download cannot be done; what had arrived before is kept where it can be of use."""

    kind = "download-refused"


class Damaged(Exception):
    """A file that arrived is not what the hub said it is; it is gone again."""


def listing(
    repo: str, revision: str, endpoint: str, kind: str = "model"
) -> tuple[str, list[tuple[str, int, Checksum]]]:
    """The commit a revision is at, and path, size and hash of all files in it.

    Args:
        kind: of the repository, "model" or "dataset".

    Raises:
        DownloadRefused: the hub says no, is not reached, or is no hub.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi(endpoint=endpoint)
        ask = api.dataset_info if kind == "dataset" else api.model_info
        info = ask(repo, revision=revision, files_metadata=True, timeout=30)
        commit = str(info.sha)
        files = [
            (
                file.rfilename,
                int(file.size if file.lfs is None else file.lfs.size),  # type: ignore[arg-type]
                Checksum(str(file.blob_id if file.lfs is None else file.lfs.sha256)),
            )
            for file in info.siblings or []
        ]
        hashes = [commit, *(checksum.digest for _, _, checksum in files)]
        if not all(re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) for text in hashes):
            raise ValueError("hashes are missing")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _raise_if_of_the_hub(error, endpoint, repo, "")
        raise DownloadRefused(
            "the server does not answer like a hub",
            where=endpoint,
            rule="files are listed with their size and hash",
            fix="correct HF_ENDPOINT, or unset it",
        ) from error
    except Exception as error:
        _raise_if_of_the_hub(error, endpoint, repo, "")
        raise
    return commit, files


def transfer(
    url: str,
    partial: Path,
    target: Path,
    size: int,
    checksum: Checksum,
    report: Callable[[int], None],
) -> None:
    """Fetches one file to `partial`, going on where that ends, and moves it to `target` if whole.

    Args:
        size: in bytes, as the hub stated it; `checksum` likewise.
        report: told now and then how many bytes have arrived.

    Raises:
        DownloadRefused: the hub says no or is not reached, or another download is at this file.
        Damaged: size or hash differ; `partial` is gone then.
    """
    with _locked(partial) as file:
        resumed = file.seek(0, os.SEEK_END) > 0
        for again in (False, True):
            _receive(url, file, size, report)
            hasher = checksum.begin(size)
            read_into(hasher, partial)
            if file.tell() == size and hasher.hexdigest() == checksum.digest:
                os.replace(partial, target)
                return
            if not resumed or again:
                break
            file.truncate(0)  # what was kept from before may be what is wrong: once from the start
            file.seek(0)
        has = file.tell()
        partial.unlink(missing_ok=True)
    raise Damaged(_difference(has, size, hasher, checksum))


def _difference(has: int, size: int, hasher: Hasher, checksum: Checksum) -> str:
    if has != size:
        return f"it has {has:,} bytes, the hub says {size:,}"
    return f"its {checksum.kind} is {hasher.hexdigest()}, the hub says {checksum.digest}"


@contextmanager
def _locked(partial: Path) -> Iterator[BinaryIO]:
    with partial.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # It may have been finished and moved away between opening and locking.
            mine = partial.exists() and os.path.samestat(partial.stat(), os.fstat(file.fileno()))
        except BlockingIOError:
            mine = False
        if not mine:
            raise DownloadRefused(
                f"another download is fetching {partial.name.rpartition('.')[0]}",
                where=str(partial),
                rule="one download of a file at a time",
                fix="wait for it, or end it and start this one again",
            )
        yield file


def _receive(url: str, file: BinaryIO, size: int, report: Callable[[int], None]) -> None:
    failures = 0
    while file.tell() < size:
        before = file.tell()
        try:
            _stream(url, file, size, report)
            if file.tell() < size:
                raise ConnectionError("the connection was closed")
        except (_http_error(), OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's
            refused = _status(error) not in (None, 408, 429, 500, 502, 503, 504)
            failures = 0 if file.tell() > before else failures + 1
            if refused or failures >= ATTEMPTS or _offline(error):
                _raise_if_of_the_hub(error, url, "", url, file.tell(), size)
                raise
            time.sleep(WAIT_SECONDS * 2 ** max(failures - 1, 0))
    file.flush()


def _stream(url: str, file: BinaryIO, size: int, report: Callable[[int], None]) -> None:
    """One answer's worth of bytes; stops early when more come than there should be."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import hf_raise_for_status

    start = file.tell()
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        if start and response.status_code != 206:  # the server sends everything again
            file.truncate(0)
            file.seek(0)
        reported = time.monotonic()
        for block in response.iter_bytes():
            file.write(block)
            if time.monotonic() - reported >= _REPORT_SECONDS:
                report(file.tell())
                reported = time.monotonic()
            if file.tell() > size:
                return


def _http_error() -> type[Exception]:
    """httpx's root of errors, of whichever httpx the hub's client is built on."""
    from huggingface_hub.errors import HfHubHTTPError

    root: type[Exception] = HfHubHTTPError.__bases__[0]
    return root


def _status(error: BaseException) -> int | None:
    """The status the hub answered with, if that is what the error is about."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return None if status is None else int(status)


def _offline(error: BaseException) -> bool:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(error, OfflineModeIsEnabled)


def _raise_if_of_the_hub(
    error: BaseException, server: str, repo: str, url: str, arrived: int = 0, size: int = 0
) -> None:
    """Raises what people are told instead, if the hub or the way to it is what failed."""
    from huggingface_hub import errors

    place = url or f"{server}/{repo}"
    status = _status(error)
    if _offline(error):
        _refuse(
            error,
            "the hub is not asked: offline mode is on",
            place,
            "HF_HUB_OFFLINE=1 allows no download",
            "unset HF_HUB_OFFLINE, or put the files into a folder and name it by --weights-dir",
        )
    if status in (401, 403):
        _refuse(
            error,
            f"the hub refuses access ({status})",
            place,
            "private and gated repositories want the token of an account that may read them; "
            "the hub also answers 401 where there is no such repository",
            "set HF_TOKEN, or run hf auth login; accept a gated model's terms on its page first",
        )
    if status == 404:
        what = "no such repository"
        if isinstance(error, errors.RevisionNotFoundError):
            what = "no such revision of the repository"
        elif url:
            what = "no such file"
        _refuse(error, f"the hub has {what} (404)", place, "", "correct the preset, or HF_ENDPOINT")
    if status is not None:
        _refuse(
            error, f"the hub answers with an error ({status})", place, "", "try again in a while"
        )
    if isinstance(error, (_http_error(), ConnectionError)):
        what = f"cannot reach the hub: {_first_line(error)}"
        if arrived:
            what = f"the connection broke after {arrived:,} of {size:,} bytes: {_first_line(error)}"
        _refuse(
            error,
            what,
            place,
            "what has arrived is kept; the download goes on where it was",
            "check the network, HF_ENDPOINT and proxy variables, and run the command again",
        )


def _refuse(error: BaseException, what: str, where: str, rule: str, fix: str) -> NoReturn:
    raise DownloadRefused(what, where=where, rule=rule, fix=fix) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
