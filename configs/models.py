"""Model presets: which parts make a model and how it is sampled by default.

Reads and checks the YAML they are written in; where the files are on this machine is not known
here. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from scalekv.configs.spec import (
    DTYPES,
    PIXELS,
    Sampling,
    TextSpec,
    TokenizerSpec,
    TransformerSpec,
)
from scalekv.configs.yaml_files import read_yaml
from scalekv.kv.errors import UserError, check_one_of, close_matches

FOLDER = Path(__file__).parent / "models"
"""Where the presets ship: NAME.yaml."""

NO_REPO = "none"
"""`repo` of a size that was described but never released: its weights can only be one's own."""

_PATTERN = FOLDER / "infinity-2b.yaml"  # shown as a pattern where a preset is incomplete


@dataclass(frozen=True)
class ModelFiles:
    """Where a preset's parts are.

    Attributes:
        repo: hub repository of transformer and VAE; "" for files that are already on this
            machine (in the package, or beside the preset), "none" for weights never released.
        transformer: a file, or a folder of safetensors shards with their index.
        vae: a file.
        text_encoder: a folder, or a hub repository of its own, "owner/name".
        text_encoder_files: patterns of the files needed of that repository; the rest of it (other
            frameworks' copies of the weights) is never fetched.
        revision, text_encoder_revision: branch, tag or commit to fetch.
    """

    repo: str
    transformer: str
    vae: str
    text_encoder: str
    text_encoder_files: tuple[str, ...] = ()
    revision: str = "main"
    text_encoder_revision: str = "main"


@dataclass(frozen=True)
class Sizes:
    """Bytes of the parts as far as known without the hub: from listings of others, not verified."""

    transformer: int
    vae: int
    text_encoder: int

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return self.transformer + self.vae + self.text_encoder


@dataclass(frozen=True)
class ModelPreset:
    """One model: its parts belong together and are never mixed with another preset's.

    pixels: pixel class it was trained for; pixels_too: others that it was trained for as well;
    ratios: width:height it was trained for, () for all, and for every pixel class then;
    sizes: None where nothing is to be fetched; text: the text encoder's sizes, None where only its
    own configuration says them; dtype: precision of the blocks, "auto" for the device's usual one.
    """

    name: str
    summary: str
    licence: str
    transformer: TransformerSpec
    tokenizer: TokenizerSpec
    sampling: Sampling
    pixels: str
    ratios: tuple[str, ...]
    files: ModelFiles
    sizes: Sizes | None = None
    text: TextSpec | None = None
    dtype: str = "auto"
    pixels_too: tuple[str, ...] = ()

    @property
    def pixel_classes(self) -> tuple[str, ...]:
        """Pixel classes it was trained for, its own first."""
        return (self.pixels, *self.pixels_too)

    @property
    def ratio(self) -> str:
        """The ratio it is shown at where none is asked for, width:height."""
        return self.ratios[0] if self.ratios else "1:1"

    @property
    def built_in(self) -> bool:
        """Whether the weights are installed with the package."""
        return not self.files.repo and not Path(self.files.transformer).is_absolute()

    @property
    def downloadable(self) -> bool:
        """Whether the weights are on the hub."""
        return self.files.repo not in ("", NO_REPO)

    @property
    def released(self) -> bool:
        """Whether there are weights at all, as far as the preset knows."""
        return self.files.repo != NO_REPO


def list_models() -> list[str]:
    """Names of the presets that ship: the built-in one first, those without weights last."""
    return sorted(
        _known(),
        key=lambda name: (not model_named(name).built_in, not model_named(name).released, name),
    )


def model_named(name: str, where: str = "--model") -> ModelPreset:
    """The preset of that name, or the one in the file of that name ("my/own.yaml").

    `where` is what a message says the name came from.

    Raises:
        UserError: no such preset, with the nearest names; or a file that is no preset.
    """
    if name.endswith((".yaml", ".yml")):
        return read_preset(Path(name).expanduser())
    known = _known()
    what, also = f"no model named {name!r}", ", or the path of a preset, own.yaml"
    check_one_of(name, known, what, where, also=also)
    return _shipped(name)


@cache
def _shipped(name: str) -> ModelPreset:
    return read_preset(FOLDER / f"{name}.yaml")


def read_preset(path: Path) -> ModelPreset:
    """The preset a file describes; it is called what the file is called.

    Files of a preset without a repository are looked for in its own folder, unless it ships.

    Raises:
        UserError: a file that is no YAML, lacks a key, has one too many, or a value of another
            kind or outside its range.
    """
    where = str(path)
    try:
        content = read_yaml(path, fix=_AS_IN)
    except OSError as error:
        raise UserError(
            f"cannot read the preset: {error.strerror}",
            where=where,
            fix=f"name a file that is there, or one of {', '.join(_known())}",
        ) from None
    if isinstance(content, Mapping):
        content = {"name": path.stem, **content}
    preset = _build(ModelPreset, content, where)
    _check(preset, where)
    return preset if path.parent == FOLDER else _beside(preset, path.absolute().parent)


def _check(preset: ModelPreset, where: str) -> None:
    spec, sampling = preset.transformer, preset.sampling
    if spec.width % (4 * spec.heads) or spec.depth % spec.chunks:
        raise UserError(
            f"width {spec.width} in {spec.heads} heads, depth {spec.depth} in {spec.chunks} chunks",
            where=f"{where}, key transformer",
            rule="heads divide the width into multiples of 4, chunks divide the depth",
            fix=_AS_IN,
        )
    for place, pixels in enumerate(preset.pixel_classes):
        key = f"{where}, key {'pixels_too' if place else 'pixels'}"
        check_one_of(pixels, PIXELS, f"no pixel class {pixels!r}", key, otherwise=_AS_IN)
    what, key = f"no dtype {preset.dtype!r}", f"{where}, key dtype"
    check_one_of(preset.dtype, DTYPES, what, key, otherwise=_AS_IN)
    for key, fine, rule in (
        ("tau", sampling.tau > 0, "above 0"),
        ("top_p", 0 <= sampling.top_p <= 1, "between 0 and 1; 0 turns it off"),
        ("cfg", math.isfinite(sampling.cfg), "a finite number"),
        ("cfg_layer", -spec.depth <= sampling.cfg_layer <= 0, f"from -{spec.depth} to 0"),
    ):
        if not fine:
            raise UserError(
                f"{key} is {getattr(sampling, key)}",
                where=f"{where}, key sampling, key {key}",
                rule=rule,
                fix=_AS_IN,
            )
    files = preset.files
    for name in (files.transformer, files.vae, files.text_encoder) if files.repo else ():
        if not name or name.startswith(("/", "~")) or ".." in name.split("/"):
            raise UserError(
                f"{name!r} is no name in a hub repository",
                where=f"{where}, key files",
                rule="names of a preset with a repository are relative to that repository",
                fix='leave the name relative, or say repo: "" for files on this machine',
            )


def _beside(preset: ModelPreset, folder: Path) -> ModelPreset:
    """A user's own preset with the names of its local files made absolute."""
    files = preset.files
    if files.repo:
        return preset
    text = folder / Path(files.text_encoder).expanduser()
    on_hub = files.text_encoder.count("/") == 1 and not text.exists()
    return replace(
        preset,
        files=replace(
            files,
            transformer=str(folder / Path(files.transformer).expanduser()),
            vae=str(folder / Path(files.vae).expanduser()),
            text_encoder=files.text_encoder if on_hub else str(text),
        ),
    )


def _known() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


T = TypeVar("T")


def _build(kind: type[T], content: object, where: str) -> T:
    """A dataclass from a mapping with exactly its fields, sections included."""
    hints = get_type_hints(kind)
    needed = [f.name for f in fields(kind) if f.default is MISSING]  # type: ignore[arg-type]
    rule = "keys are " + ", ".join(hints)
    if not isinstance(content, Mapping):
        raise UserError(
            f"{content!r} is no mapping of keys to values", where=where, rule=rule, fix=_AS_IN
        )
    for key in content:
        if key not in hints:
            fix = close_matches(str(key), hints) or _AS_IN
            raise UserError(f"unknown key {key!r}", where=where, rule=rule, fix=fix)
    if missing := [key for key in needed if key not in content]:
        raise UserError(
            f"the key {missing[0]} is missing",
            where=where,
            rule=rule,
            fix=f"add a line {missing[0]}: ..., {_AS_IN}",
        )
    return kind(
        **{key: _value(hints[key], value, f"{where}, key {key}") for key, value in content.items()}
    )


def _value(kind: Any, value: object, where: str) -> object:
    for section in (Sizes, TextSpec):
        if kind == section | None:
            return None if value is None else _build(section, value, where)
    if kind in (TransformerSpec, TokenizerSpec, Sampling, ModelFiles):
        return _build(kind, value, where)
    if kind == tuple[int, ...] or kind == tuple[str, ...]:
        entry = kind.__args__[0]
        if isinstance(value, list):
            return tuple(_value(entry, item, where) for item in value)
        raise UserError(
            f"{value!r} is no list", where=where, rule=f"a list of {_WORDS[entry]}s", fix=_AS_IN
        )
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UserError(
            f"{value!r} is no {_WORDS[kind]}", where=where, rule=f"a {_WORDS[kind]}", fix=_AS_IN
        )
    if kind is int and not where.endswith("cfg_layer") and isinstance(value, int) and value < 1:
        raise UserError(f"{value} is too small", where=where, rule="at least 1", fix=_AS_IN)
    return value


_AS_IN = f"as in {_PATTERN}"
_WORDS = {int: "whole number", float: "number", str: "text", bool: "truth value (true or false)"}


PROMPTS_FOLDER = Path(__file__).parent / "prompts"


def calibration_prompts(model: str) -> Path:
    """The list that a model is calibrated on where none is named."""
    own = PROMPTS_FOLDER / f"{model}.txt"
    return own if own.is_file() else PROMPTS_FOLDER / "neutral.txt"
