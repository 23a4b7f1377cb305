"""Downloads a preset's files from the hub: lists them, checks the disk, verifies every byte.

A file arrives under a name of its own beside the cache, is compared with the hub's size and hash,
and only then gets its place in the cache, so whatever is in the cache is whole. No torch.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.files.cache_layout import (
    name_in_cache,
    partial_file,
    point_to,
)
from scalekv.infinity_patch.files.disk import SPARE_RULE, shortage
from scalekv.infinity_patch.files.hashes import Checksum, sha256_of
from scalekv.infinity_patch.files.hub import (
    INDEX,
    TEXT_NEEDS,
    HubPart,
    ModelPaths,
    hub_cache,
    missing_files,
    model_files,
    parts_of,
    repo_folder,
    snapshot,
)
from scalekv.infinity_patch.files.transfer import Damaged, DownloadRefused, listing, transfer
from scalekv.kv.errors import close_matches


@dataclass(frozen=True)
class HubFile:
    """One file as the hub describes it. `name` is its path in the repository; size in bytes."""

    part: HubPart
    commit: str
    name: str
    size: int
    checksum: Checksum

    def blob(self, cache: Path) -> Path:
        """Where the cache keeps the content."""
        return repo_folder(self.part.repo, cache) / "blobs" / self.checksum.digest

    def pointer(self, cache: Path) -> Path:
        """Where the cache names the content."""
        return repo_folder(self.part.repo, cache) / "snapshots" / self.commit / self.name

    def partial(self, cache: Path) -> Path:
        """Where the content arrives."""
        return partial_file(repo_folder(self.part.repo, cache), self.name, self.checksum.digest)

    def present(self, cache: Path) -> bool:
        """Whether the whole file is in the cache under its name."""
        pointer = self.pointer(cache)
        return pointer.is_file() and pointer.stat().st_size == self.size


@dataclass(frozen=True)
class Plan:
    """What a download comes to: all files of a preset, in the order they are fetched in."""

    preset: ModelPreset
    cache: Path
    endpoint: str
    files: tuple[HubFile, ...]

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def absent(self) -> tuple[HubFile, ...]:
        """The files that are not on this machine yet."""
        return tuple(file for file in self.files if not file.present(self.cache))

    @property
    def to_fetch(self) -> int:
        """Bytes still to be fetched: those of absent files but what has already arrived."""
        return sum(max(file.size - self.arrived(file), 0) for file in self.absent)

    def arrived(self, file: HubFile) -> int:
        """Bytes of an absent file that are kept from an interrupted download."""
        if file.blob(self.cache).is_file():
            return file.size
        partial = file.partial(self.cache)
        return partial.stat().st_size if partial.is_file() else 0


@dataclass(frozen=True)
class DownloadProgress:
    """How far a download is: the file, files done and to do, and bytes of all files."""

    file: str
    index: int
    files: int
    done: int
    total: int


def plan_download(
    preset: ModelPreset, *, cache: Path | None = None, endpoint: str | None = None
) -> Plan:
    """Asks the hub what a preset's files are; fetches none of them.

    In offline mode the hub is not asked: where everything is on this machine, that is the plan.

    Args:
        cache: folder of the hub's cache; None takes the one of HF_HOME and HF_HUB_CACHE.
        endpoint: address of the hub; None takes HF_ENDPOINT's.

    Raises:
        DownloadRefused: nothing to fetch for this preset, or the hub refuses or is not reached.
    """
    from huggingface_hub import constants

    parts = parts_of(preset)
    if not preset.downloadable:
        _nothing_to_fetch(preset)
    endpoint = endpoint or constants.ENDPOINT
    place = cache or hub_cache()
    if constants.HF_HUB_OFFLINE and not any(missing_files(part, place) for part in parts):
        return Plan(preset, place, endpoint, tuple(_files_here(parts, place)))
    listings: dict[tuple[str, str], tuple[str, list[HubFile]]] = {}
    files: list[HubFile] = []
    for part in parts:
        where = (part.repo, part.revision)
        if where not in listings:
            commit, found = listing(*where, endpoint)
            listings[where] = commit, [HubFile(part, commit, *entry) for entry in found]
        commit, all_files = listings[where]
        chosen = [
            HubFile(part, commit, file.name, file.size, file.checksum)
            for file in all_files
            if part.wants(file.name)
        ]
        _check_complete(part, chosen, [file.name for file in all_files])
        files += chosen
    return Plan(preset, place, endpoint, tuple(files))


def _files_here(parts: Iterable[HubPart], cache: Path) -> Iterator[HubFile]:
    """The files of complete parts, as the cache has them."""
    for part in parts:
        root = snapshot(part.repo, part.revision, cache)
        assert root is not None, "the part is complete"
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            name = path.relative_to(root).as_posix()
            if part.wants(name):
                checksum = Checksum.of_cached(path) or Checksum(sha256_of(path))
                yield HubFile(part, root.name, name, path.stat().st_size, checksum)


def download(
    preset: ModelPreset | Plan,
    *,
    cache: Path | None = None,
    endpoint: str | None = None,
    on_progress: Callable[[DownloadProgress], None] | None = None,
) -> ModelPaths:
    """Fetches what of a preset is not on this machine, and says where everything is.

    An interrupted download goes on where it was. Files are compared with the hub's size and hash.

    Args:
        preset: or the plan made of one, which already has cache and endpoint.
        cache, endpoint: as for `plan_download`.
        on_progress: called now and then, at the latest after every file.

    Raises:
        DownloadRefused: the hub refuses, is not reached or sends something else than it promised;
            the disk has no room.
    """
    plan = preset if isinstance(preset, Plan) else None
    if plan is None:
        assert isinstance(preset, ModelPreset)
        plan = plan_download(preset, cache=cache, endpoint=endpoint)
    absent = plan.absent
    check_disk(plan)
    done = plan.total - sum(file.size for file in absent)
    for index, file in enumerate(absent):

        def report(arrived: int, file: HubFile = file, i: int = index, before: int = done) -> None:
            if on_progress is not None:
                on_progress(
                    DownloadProgress(file.name, i, len(absent), before + arrived, plan.total)
                )

        try:
            _fetch(plan, file, report)
        except OSError as error:
            _disk_refuses(error, plan)
        done += file.size
    for part, commit in {(file.part, file.commit) for file in plan.files}:
        try:
            name_in_cache(repo_folder(part.repo, plan.cache), part.revision, commit)
        except OSError as error:
            # of no consequence where it is found without, as in a shared cache that may be read
            found = snapshot(part.repo, part.revision, plan.cache)
            if found is None or found.name != commit:
                _disk_refuses(error, plan)
    return model_files(plan.preset, cache=plan.cache)


def check_disk(plan: Plan) -> None:
    """Refuses a download that the disk has no room for.

    Raises:
        DownloadRefused: fewer bytes are free than are to be fetched.
    """
    if plan.to_fetch and (lacking := shortage(plan.cache, plan.to_fetch)):
        raise DownloadRefused(
            f"the disk has no room for {plan.preset.name}: {lacking}",
            where=str(plan.cache),
            rule=SPARE_RULE,
            fix="free some space, or set HF_HOME to a folder on a larger disk",
        )


def _fetch(plan: Plan, file: HubFile, report: Callable[[int], None]) -> None:
    blob, pointer, partial = (path(plan.cache) for path in (file.blob, file.pointer, file.partial))
    if blob.is_file() and not file.checksum.fits(blob, file.size):
        blob.unlink()  # never whole, whoever put it there
    if not blob.is_file():
        partial.parent.mkdir(parents=True, exist_ok=True)
        blob.parent.mkdir(parents=True, exist_ok=True)
        for left in partial.parent.glob(f"{partial.name.rpartition('.')[0]}.*"):
            if left != partial:
                left.unlink()  # of an older version of this file
        url = f"{plan.endpoint}/{file.part.repo}/resolve/{file.commit}/{file.name}"
        try:
            transfer(url, partial, blob, file.size, file.checksum, report)
        except Damaged as damage:
            raise DownloadRefused(
                f"{file.name} arrived damaged: {damage}",
                where=url,
                rule="a file must have the size and the hash that the hub states",
                fix=f"scalekv download {plan.preset.name} again; if it happens again, the server "
                "named by HF_ENDPOINT or a proxy changes files",
            ) from damage
    point_to(blob, pointer)
    report(file.size)


def _check_complete(part: HubPart, chosen: list[HubFile], offered: list[str]) -> None:
    names = {file.name for file in chosen}
    if part.patterns:
        missing = [need for need in TEXT_NEEDS if need not in names]
        if not any(name.endswith((".safetensors", INDEX)) for name in names):
            missing.append("model.safetensors")
    else:
        folder_whole = any(name.endswith(".safetensors") for name in names)
        missing = [] if part.name in names or folder_whole else [part.name]
    if missing:
        raise DownloadRefused(
            f"the hub has no {missing[0]} in {part.repo} (404)",
            where=f"{part.repo}, revision {part.revision}",
            rule=f"the preset's {part.label} comes from there",
            fix=close_matches(missing[0], offered) or "correct the preset's files",
        )


def _nothing_to_fetch(preset: ModelPreset) -> NoReturn:
    if preset.released:
        raise DownloadRefused(
            f"{preset.name} needs no download: its files are on this machine",
            where=preset.name,
            rule="only models on the hub are downloaded",
            fix=f'scalekv generate "a red apple" --model {preset.name}',
        )
    raise DownloadRefused(
        f"no weights of {preset.name} were ever released",
        where=preset.name,
        rule="only models on the hub are downloaded",
        fix="scalekv models lists those that are",
    )


def _disk_refuses(error: OSError, plan: Plan) -> NoReturn:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    raise DownloadRefused(
        "the disk is full" if full else f"cannot write the files: {error.strerror or error}",
        where=str(error.filename or plan.cache),
        rule="what has arrived is kept; the download goes on where it was",
        fix=("free some space" if full else "make the folder writable")
        + ", or set HF_HOME to another folder",
    ) from error
