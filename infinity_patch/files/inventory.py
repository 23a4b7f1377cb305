"""Which presets' files are on this machine: their size, whether they are intact, and removal.

Knows the hub's cache and the package's own weights; asks nobody. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from scalekv.configs.models import ModelPreset, list_models, model_named
from scalekv.infinity_patch.files.cache_layout import PARTIALS
from scalekv.infinity_patch.files.hashes import Checksum, read_sums
from scalekv.infinity_patch.files.hub import (
    BUILT_IN,
    ModelPaths,
    WeightsMissing,
    hub_cache,
    missing_files,
    model_files,
    part_files,
    parts_of,
    repo_folder,
)
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.memory.predicted import full_cache_bytes


class State(StrEnum):
    """How much of a preset is on this machine."""

    BUILT_IN = "built in"
    LOCAL = "local files"
    DOWNLOADED = "downloaded"
    PARTLY = "partly downloaded"
    ABSENT = "not downloaded"
    INCOMPLETE = "files missing"
    UNRELEASED = "no weights"


class Verdict(StrEnum):
    """What came of checking a file."""

    WHOLE = "whole"
    DAMAGED = "damaged"
    UNCHECKED = "not checked"
    """Kept without its hash (a file of one's own, a cache without links)."""


@dataclass(frozen=True)
class Stored:
    """A preset's files on this machine; `nbytes` of disk, of what is still incomplete too."""

    state: State
    nbytes: int
    files: tuple[Path, ...]
    partials: tuple[Path, ...]


def stored(preset: ModelPreset, cache: Path | None = None) -> Stored:
    """What of a preset is on this machine."""
    place = cache or hub_cache()
    if not preset.downloadable:
        return _own_files(preset, place)
    files: list[Path] = []
    partials: list[Path] = []
    missing = False
    for part in parts_of(preset):
        files += part_files(part, place)
        missing = missing or bool(missing_files(part, place))
        for path in (repo_folder(part.repo, place) / PARTIALS).glob("*"):
            if part.wants(path.name.rpartition(".")[0].replace("--", "/")):
                partials.append(path)
    state = State.DOWNLOADED
    if missing:
        own = parts_of(preset)[0]  # a shared text encoder alone is nothing of this preset's
        state = State.PARTLY if part_files(own, place) or partials else State.ABSENT
    return Stored(state, _size([*files, *partials]), tuple(files), tuple(partials))


def _own_files(preset: ModelPreset, cache: Path) -> Stored:
    if not preset.released:
        return Stored(State.UNRELEASED, 0, (), ())
    try:
        paths = model_files(preset, cache=cache)
    except WeightsMissing:
        return Stored(State.INCOMPLETE, 0, (), ())
    files = every_file(paths)
    state = State.BUILT_IN if preset.built_in else State.LOCAL
    return Stored(state, _size(files), files, ())


def every_file(paths: ModelPaths) -> tuple[Path, ...]:
    """Every file of a model's parts."""
    found: list[Path] = []
    for path in (paths.transformer, paths.vae, paths.text_encoder):
        found += sorted(path.rglob("*")) if path.is_dir() else [path]
    return tuple(path for path in found if path.is_file())


def full_cache(preset: ModelPreset) -> int:
    """Bytes of the cache of one guided picture when nothing is dropped, at the preset's native
    size, in bf16, before the last scale."""
    spec = preset.transformer
    schedule = schedule_for(preset.ratio, preset.pixels)
    return full_cache_bytes(schedule, spec.depth, 2, spec.heads, spec.head_dim, 2)


def verify(
    preset: ModelPreset,
    *,
    weights_dir: Path | None = None,
    cache: Path | None = None,
    on_file: Callable[[Path], None] | None = None,
) -> list[tuple[Path, Verdict]]:
    """Reads all files of a preset and compares them with what is known of them.

    That is the hash a downloaded file is kept under, and for local files the list of sums beside
    them, which the built-in model has. In a folder without a list, files of the built-in model are
    known by its own; others there can be somebody's own weights.

    Args:
        weights_dir: a folder with the preset's files instead of the usual place.

    Raises:
        WeightsMissing: files are missing, so there is no whole preset to check.
    """
    paths = model_files(preset, weights_dir, cache=cache)
    root = paths.transformer.parent if weights_dir is None else weights_dir
    sums = {root / name: checksum for name, checksum in read_sums(root).items()}
    if preset.built_in and not sums:
        known = read_sums(BUILT_IN / preset.name)
        sums = {root / n: c for n, c in known.items() if _is(root / n, c)}
    verdicts = []
    files = stored(preset, cache).files if weights_dir is None else every_file(paths)
    for path in (*files, *(listed for listed in sums if listed not in files)):
        if on_file is not None:
            on_file(path)
        checksum = sums.get(path) or Checksum.of_cached(path)
        verdict = Verdict.UNCHECKED
        if not path.is_file():
            verdict = Verdict.DAMAGED
        elif checksum is not None:
            whole = checksum.fits(path, path.stat().st_size)
            verdict = Verdict.WHOLE if whole else Verdict.DAMAGED
        verdicts.append((path, verdict))
    return verdicts


def _is(path: Path, checksum: Checksum) -> bool:
    return path.is_file() and checksum.fits(path, path.stat().st_size)


def removable(preset: ModelPreset, cache: Path | None = None) -> tuple[Path, ...]:
    """A preset's files on this machine that no other preset on it uses."""
    kept: set[Path] = set()
    for other in (model_named(name) for name in list_models()):
        on_disk = stored(other, cache)
        used = on_disk.state in (State.DOWNLOADED, State.PARTLY)
        if other.name != preset.name and other.downloadable and used:
            kept |= {path.resolve() for path in on_disk.files}
    mine = stored(preset, cache) if preset.downloadable else None
    if mine is None:
        return ()
    return (*(path for path in mine.files if path.resolve() not in kept), *mine.partials)


def remove(files: Iterable[Path]) -> int:
    """Deletes files of the cache with the contents that nothing else names; returns bytes freed.

    Raises:
        OSError: one cannot be deleted.
    """
    freed = 0
    for path in files:
        content = path.resolve()
        size = content.stat().st_size if content.is_file() else 0
        path.unlink()
        if content == path or not content.is_file():
            freed += size
        elif not _named_elsewhere(content):
            content.unlink()
            freed += size
    return freed


def _named_elsewhere(content: Path) -> bool:
    """Whether a name in the repository of a content still points to it."""
    if content.parent.name != "blobs":
        return True  # not the cache's layout: leave it alone
    names = content.parent.parent.glob("snapshots/**/*")
    return any(name.is_symlink() and name.resolve() == content for name in names)


def _size(files: Iterable[Path]) -> int:
    contents = {path.resolve() for path in files}
    return sum(path.stat().st_size for path in contents)
