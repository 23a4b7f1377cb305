"""Where a preset's files are: in the package, in a folder, or in the hub's cache on this machine.
Never downloads; no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from scalekv.configs.models import ModelFiles, ModelPreset
from scalekv.kv.errors import UserError

BUILT_IN = Path(__file__).parents[1] / "weights"
INDEX = ".safetensors.index.json"
"""How the name of a file ends that lists shards."""
BIN_INDEX = ".bin.index.json"
"""The same of shards in PyTorch's format, which are read and never fetched."""
OWN_NAMES = ("transformer", "vae")
"""What files in a folder of one's own may be called as well: NAME.safetensors or a folder NAME."""
TEXT_NEEDS = ("config.json", "tokenizer.json")
"""What a text encoder's folder has besides its weights."""


class WeightsMissing(UserError):
    """A file of the model is not on this machine; the fix names the command that fetches it."""

    kind = "weights-missing"


@dataclass(frozen=True)
class ModelPaths:
    """The files of one model on this machine.

    `text_encoder` is a folder, and so is `transformer` where the weights come in shards.
    """

    transformer: Path
    vae: Path
    text_encoder: Path


@dataclass(frozen=True)
class HubPart:
    """The files of a preset that come from one hub repository.

    repo, revision: which; label: "transformer", "vae" or "text encoder"; name: the file, the
    folder of shards, or "" for files chosen by `patterns` from the repository's top.
    """

    label: str
    repo: str
    revision: str
    name: str
    patterns: tuple[str, ...] = ()

    def wants(self, file: str) -> bool:
        """Whether a file of the repository, named by its path in it, is one of this part's."""
        if self.patterns:
            return "/" not in file and any(fnmatchcase(file, p) for p in self.patterns)
        if file == self.name:
            return True
        folder, _, last = file.rpartition("/")
        return folder == self.name and last.endswith((".safetensors", INDEX))


def parts_of(preset: ModelPreset) -> tuple[HubPart, ...]:
    """What a preset needs of the hub; () where it needs nothing."""
    files = preset.files
    parts: list[HubPart] = []
    if preset.downloadable:
        parts = [
            HubPart("transformer", files.repo, files.revision, files.transformer),
            HubPart("vae", files.repo, files.revision, files.vae),
        ]
    if text_on_hub(files):
        patterns = files.text_encoder_files
        revision = files.text_encoder_revision
        parts.append(HubPart("text encoder", files.text_encoder, revision, "", patterns))
    return tuple(parts)


def text_on_hub(files: ModelFiles) -> bool:
    """Whether the text encoder is a hub repository of its own."""
    return bool(files.text_encoder_files) and not Path(files.text_encoder).is_absolute()


def hub_cache() -> Path:
    """The folder the hub's files are kept in, as HF_HOME and HF_HUB_CACHE have it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repo_folder(repo: str, cache: Path) -> Path:
    """Where the cache keeps a repository."""
    return cache / ("models--" + repo.replace("/", "--"))


def snapshot(repo: str, revision: str, cache: Path) -> Path | None:
    """The folder of a repository's files as they were last downloaded, or None.

    Where the cache does not say which version `revision` is, as in a copy of the snapshots alone,
    it is the only one there is.
    """
    folder = repo_folder(repo, cache)
    commit = revision
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        try:
            commit = (folder / "refs" / revision).read_text().strip()
        except OSError:
            versions = [path.name for path in (folder / "snapshots").glob("*") if path.is_dir()]
            commit = versions[0] if len(versions) == 1 else ""
    path = folder / "snapshots" / commit
    return path if commit and path.is_dir() else None


def part_files(part: HubPart, cache: Path) -> list[Path]:
    """The files of a part that are in the cache, whole ones (the cache names no others): of every
    version, those of a download that is not finished among them."""
    files: list[Path] = []
    for root in sorted((repo_folder(part.repo, cache) / "snapshots").glob("*")):
        names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
        files += [root / name for name in names if part.wants(name)]
    return files


def missing_files(part: HubPart, cache: Path) -> list[str]:
    """What a part lacks in the cache, named as in its repository; [] if it is complete.

    A folder of shards is complete when every shard that its index lists is there.
    """
    root = snapshot(part.repo, part.revision, cache)
    if part.patterns:
        if root is None:
            return [*TEXT_NEEDS, "model.safetensors"]
        return _missing_text(root)
    if root is None:
        return [part.name]
    return [f"{part.name}{rest}" for rest in _missing_weights(root / part.name)]


def model_files(
    preset: ModelPreset, weights_dir: Path | None = None, *, cache: Path | None = None
) -> ModelPaths:
    """The files of a preset: in `weights_dir`, else in the package, else in the hub's cache.

    In `weights_dir` the transformer and the VAE may also be called transformer and vae, as
    safetensors files or folders of shards. A text encoder that is not in it, under its own name or
    its repository's, is taken from the hub's cache where it has a repository of its own.

    Raises:
        WeightsMissing: one is not there.
    """
    files = preset.files
    if weights_dir is not None:
        root = weights_dir
    elif preset.released and not preset.downloadable:
        root = BUILT_IN / preset.name
    elif not preset.downloadable:
        raise WeightsMissing(
            f"no weights of {preset.name} were ever released",
            where=preset.name,
            rule="a size without weights needs your own",
            fix="--weights-dir DIR with " + _names(preset),
        )
    else:
        place = cache or hub_cache()
        for part in parts_of(preset):
            if missing := missing_files(part, place):
                raise _missing(preset, missing, preset.name)
        repo = snapshot(files.repo, files.revision, place)
        text = snapshot(files.text_encoder, files.text_encoder_revision, place)
        assert repo is not None
        text_folder = repo / files.text_encoder if text is None else text
        return ModelPaths(repo / files.transformer, repo / files.vae, text_folder)
    named = [root / files.transformer, root / files.vae]
    if weights_dir is not None:
        named = [_own(weights_dir, path, own) for path, own in zip(named, OWN_NAMES, strict=True)]
    transformer, vae = named
    paths = ModelPaths(transformer, vae, _text(preset, root, cache))
    for path in (paths.transformer, paths.vae):
        if missing := _missing_weights(path):
            raise _missing(preset, [path.name + rest for rest in missing], weights_dir)
    if missing := _missing_text(paths.text_encoder):
        whole = not paths.text_encoder.exists()
        names = [paths.text_encoder.name] if whole else missing
        raise _missing(preset, names, weights_dir)
    return paths


def _own(folder: Path, path: Path, name: str) -> Path:
    """A file in a folder as its preset calls it, or else as `scalekv convert` does."""
    if not path.is_relative_to(folder):
        path = folder / path.name  # of a preset whose own files have absolute names
    candidates = (path, folder / f"{name}.safetensors", folder / name)
    return next((candidate for candidate in candidates if candidate.exists()), path)


def _text(preset: ModelPreset, root: Path, cache: Path | None) -> Path:
    files = preset.files
    here = [root / files.text_encoder, root / Path(files.text_encoder).name, root / "text_encoder"]
    for path in here if text_on_hub(files) else here[:1]:
        if path.is_dir():
            return path
    if text_on_hub(files):
        place = cache or hub_cache()
        found = snapshot(files.text_encoder, files.text_encoder_revision, place)
        if found is not None:
            return found
    return here[0]


def _missing_text(folder: Path) -> list[str]:
    missing = [name for name in TEXT_NEEDS if not (folder / name).is_file()]
    if not (folder / "model.safetensors").is_file():
        missing += _missing_shards(folder)
    return missing


def _missing_weights(path: Path) -> list[str]:
    """What is missing after the name of a file or of a folder of shards."""
    if path.is_file():
        return []
    if not path.is_dir():
        return [""]
    if any(path.glob("*" + INDEX)) or any(path.glob("*" + BIN_INDEX)):
        return [f"/{name}" for name in _missing_shards(path)]
    return [] if any(path.glob("*.safetensors")) else ["/model" + INDEX]


def _missing_shards(folder: Path) -> Iterator[str]:
    indexes = sorted(folder.glob("*" + INDEX)) or sorted(folder.glob("*" + BIN_INDEX))
    if not indexes:
        yield "model" + INDEX
    for index in indexes:
        names = shards_of(index)
        if names is None:
            yield index.name  # there, but not a list of shards
            continue
        yield from (name for name in names if not (folder / name).is_file())


def shards_of(index: Path) -> list[str] | None:
    """The names of the shards that an index lists, each once; None: it is no list of shards."""
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return sorted({str(name) for name in listed})
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return None


def _names(preset: ModelPreset) -> str:
    files = preset.files
    return f"{files.transformer}, {files.vae} and {files.text_encoder}"


def _missing(
    preset: ModelPreset, names: Iterable[str], weights_dir: Path | str | None
) -> WeightsMissing:
    first, *rest = names
    fix = f"scalekv download {preset.name}"
    if preset.built_in:
        fix = "install scalekv again: this model comes with it"
    elif not preset.downloadable:
        fix = "put the file there, or correct the preset"
    in_folder = isinstance(weights_dir, Path)
    what = f"{first} is missing" if not rest else f"{first} and {len(rest)} more are missing"
    return WeightsMissing(
        f"{preset.name} is not complete on this machine: {what}",
        where=str(weights_dir or preset.name),
        rule=f"it needs {_names(preset)}",
        fix=fix + (", or name another --weights-dir" if in_folder else ""),
    )
