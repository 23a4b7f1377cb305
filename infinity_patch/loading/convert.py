"""A copy of a model's weights in the precision they are used in, which loads by being mapped.

Every tensor is written in the dtype it is used in, so that loading such a copy converts nothing. A
preset beside the files makes the folder a model.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from scalekv.configs.models import ModelFiles, ModelPreset, read_preset
from scalekv.configs.spec import EIGHT_BITS, PLAIN
from scalekv.configs.values import AUTO
from scalekv.configs.whole_files import replacing
from scalekv.infinity_patch.files.disk import SPARE_RULE, shortage
from scalekv.infinity_patch.files.hub import ModelPaths, hub_cache, model_files, text_on_hub
from scalekv.infinity_patch.loading.aligned_file import write_aligned
from scalekv.infinity_patch.loading.checkpoint import open_checkpoint
from scalekv.infinity_patch.loading.fitting import PARTS, check_fits, skeletons
from scalekv.infinity_patch.loading.reading import CheckpointReader, fit, hold_in_8_bits, kept_in
from scalekv.infinity_patch.loading.text_files import (
    check_text_encoder,
    open_text,
    text_tensors,
)
from scalekv.kv.dtypes import TORCH_DTYPES
from scalekv.kv.errors import UserError, check_one_of

HOST = torch.device("cpu")
SHARD_BYTES = 2 << 30
"""The most that one file holds, unless another size is asked for."""
BESIDE_TEXT = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "spiece.model",
)
"""Files that are copied with a text encoder's tensors."""


@dataclass(frozen=True)
class Tensors:
    """One part of a copy: its name, and (tensor, dtype, bytes) of what it holds."""

    name: str
    entries: tuple[tuple[str, torch.dtype, int], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(size for _, _, size in self.entries)

    def shards(self, most: int) -> list[list[tuple[str, torch.dtype, int]]]:
        """The entries in files of at most `most` bytes, but for single tensors that are larger."""
        files: list[list[tuple[str, torch.dtype, int]]] = [[]]
        for entry in self.entries:
            if files[-1] and sum(size for _, _, size in files[-1]) + entry[2] > most:
                files.append([])
            files[-1].append(entry)
        return files


@dataclass(frozen=True)
class Conversion:
    """Everything about a planned copy.

    weights: how the blocks hold theirs, "int8", "fp8" or as `dtype`.
    text: of the text encoder, where it is copied in a precision of its own; None: it is copied as
    it is where it is built in, else not at all, and the copy goes on using it where it is.
    """

    preset: ModelPreset
    source: ModelPaths
    out: Path
    dtype: str
    weights: str
    shard_bytes: int
    parts: tuple[Tensors, ...]
    text: Tensors | None
    text_bytes: int

    @property
    def nbytes(self) -> int:
        """Bytes of all that is written, headers and text files apart."""
        return sum(part.nbytes for part in self.parts) + self.text_bytes

    @property
    def file(self) -> Path:
        """The preset that makes the copy a model."""
        return self.out / f"{self.preset.name}.yaml"


@dataclass(frozen=True)
class ConversionProgress:
    """How far a copy is: the file being written, bytes done and of all."""

    file: str
    done: int
    total: int


def plan_conversion(
    preset: ModelPreset,
    out: Path,
    *,
    dtype: str = "bf16",
    weights: str = AUTO,
    text_dtype: str | None = None,
    weights_dir: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Conversion:
    """Plans the conversion of a model; reads names and shapes, writes nothing.

    Raises:
        UserError: weights that are missing or another model's, a folder that is in use, or a disk
            without room.
    """
    _check_names(dtype, text_dtype, shard_bytes)
    out = out.expanduser().absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out} is there already",
            where="--out",
            rule="nothing is overwritten",
            fix="name another folder, or delete that one",
        )
    source = model_files(preset, weights_dir)
    transformer, vae = skeletons(preset)
    with open_checkpoint(source.transformer) as checkpoint:
        held = fit(transformer, checkpoint, preset, weights, TORCH_DTYPES[dtype])
    with open_checkpoint(source.vae) as checkpoint:
        check_fits(vae, checkpoint, preset, PARTS[1])
    parts = (_planned("transformer", transformer, dtype), _planned("vae", vae, dtype))
    check_text_encoder(source.text_encoder, preset)
    text, text_bytes = None, 0
    if text_dtype is not None:
        entries_of_text = text_tensors(source.text_encoder, TORCH_DTYPES[text_dtype])
        text = Tensors("text_encoder", entries_of_text)
        text_bytes = text.nbytes
    elif preset.built_in:
        text_bytes = sum(p.stat().st_size for p in source.text_encoder.iterdir())
    plan = Conversion(preset, source, out, dtype, held, shard_bytes, parts, text, text_bytes)
    _check_disk(plan)
    return plan


def _planned(name: str, module: nn.Module, dtype: str) -> Tensors:
    entries = []
    for tensor, parameter in module.named_parameters():
        kind = kept_in(tensor, parameter, TORCH_DTYPES[dtype])
        entries.append((tensor, kind, parameter.numel() * kind.itemsize))
    return Tensors(name, tuple(entries))


def convert(
    plan: Conversion, on_progress: Callable[[ConversionProgress], None] | None = None
) -> Path:
    """Writes the copy, all of it or nothing, and returns its preset: `load(read_preset(...))`.

    Raises:
        UserError: a tensor cannot be read, does not fit the dtype, or the disk refuses.
    """
    try:
        plan.out.parent.mkdir(parents=True, exist_ok=True)
        _clear_left_behind(plan.out)
        with replacing(plan.out) as hidden:
            hidden.mkdir()
            files = _write(plan, hidden, on_progress or (lambda _: None))
            _write_preset(plan, hidden, files)
    except OSError as error:
        raise UserError(
            f"cannot write the copy: {error.strerror or error}",
            where=str(error.filename or plan.out),
            rule="a copy is written beside its place and moved there when it is whole",
            fix="make room or name another folder by --out",
        ) from error
    return plan.file


def _write(
    plan: Conversion, folder: Path, tell: Callable[[ConversionProgress], None]
) -> ModelFiles:
    """The files of a copy, and how its preset names them."""
    done = 0

    def report(name: str, more: int) -> None:
        nonlocal done
        done += more
        tell(ConversionProgress(name, done, plan.nbytes))

    names = []
    precision = TORCH_DTYPES[plan.dtype]
    modules = skeletons(plan.preset)
    if plan.weights in EIGHT_BITS:
        hold_in_8_bits(modules[0], plan.weights, precision)
    paths = (plan.source.transformer, plan.source.vae)
    for part, path, module, label in zip(plan.parts, paths, modules, PARTS, strict=True):
        with open_checkpoint(path) as checkpoint:
            reader = CheckpointReader(checkpoint, module, precision)
            names.append(_write_part(plan, part, reader, folder, report))
        with open_checkpoint(folder / names[-1]) as written:
            check_fits(module, written, plan.preset, label)
    text, patterns = _write_text(plan, folder, report)
    return ModelFiles(
        repo="",
        transformer=names[0],
        vae=names[1],
        text_encoder=text,
        text_encoder_files=patterns,
        text_encoder_revision=plan.preset.files.text_encoder_revision,
    )


def _write_part(
    plan: Conversion,
    part: Tensors,
    reader: CheckpointReader,
    folder: Path,
    report: Callable[[str, int], None],
) -> str:
    """One file, or a folder of shards with their index; its name."""
    shards = part.shards(plan.shard_bytes)
    single = f"{part.name}.safetensors" if len(shards) == 1 else None
    place = folder / part.name if single is None else folder
    _write_shards(shards, partial(reader.read, device=HOST), place, single, report)
    return single or part.name


def _write_shards(
    shards: Sequence[Sequence[tuple[str, torch.dtype, int]]],
    read: Callable[[str], torch.Tensor],
    folder: Path,
    single: str | None,
    report: Callable[[str, int], None],
) -> None:
    """Files in a folder: the one called `single`, or shards with their index."""
    folder.mkdir(exist_ok=True)
    index: dict[str, str] = {}
    for number, entries in enumerate(shards, start=1):
        name = single or f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_aligned(folder / name, {tensor: read(tensor) for tensor, *_ in entries})
        report(name, sum(size for _, _, size in entries))
        index |= {tensor: name for tensor, _, _ in entries}
    if single is None:
        total = sum(size for entries in shards for _, _, size in entries)
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1)
        (folder / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")


def _write_text(
    plan: Conversion, folder: Path, report: Callable[[str, int], None]
) -> tuple[str, tuple[str, ...]]:
    """What a preset calls the text encoder of the copy, and its patterns on the hub."""
    files, source = plan.preset.files, plan.source.text_encoder
    if plan.text is not None:
        target = folder / "text_encoder"
        shards = plan.text.shards(plan.shard_bytes)
        single = "model.safetensors" if len(shards) == 1 else None
        dtypes = {name: dtype for name, dtype, _ in plan.text.entries}
        with open_text(source) as file:
            _write_shards(
                shards, lambda name: file.take(name, dtypes[name], HOST), target, single, report
            )
        for name in BESIDE_TEXT:
            if (source / name).is_file():
                shutil.copyfile(source / name, target / name)
        return "text_encoder", ()
    elif plan.preset.built_in:
        shutil.copytree(source, folder / "text_encoder")
    elif text_on_hub(files) and source.is_relative_to(hub_cache()):
        return files.text_encoder, files.text_encoder_files
    else:
        return str(source.absolute()), ()
    report("text_encoder", plan.text_bytes)
    return "text_encoder", ()


def _write_preset(plan: Conversion, folder: Path, files: ModelFiles) -> None:
    preset = replace(
        plan.preset,
        files=files,
        sizes=None,
        dtype="auto" if plan.dtype == "fp32" else plan.dtype,
        summary=f"{plan.preset.summary} ({plan.weights} copy)",
    )
    content = _plain({k: v for k, v in asdict(preset).items() if k != "name" and v is not None})
    file = folder / plan.file.name
    file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    read_preset(file)


def _plain(value: Any) -> Any:
    """Mappings, lists and scalars alone."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _clear_left_behind(out: Path) -> None:
    """Removes what killed conversions to the same folder left behind."""
    for path in out.parent.glob(f".{out.name}.*"):
        number = path.name.rpartition(".")[2]
        if not number.isdecimal() or int(number) == os.getpid():
            continue
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except PermissionError:
            continue  # somebody else's, and running


def _check_names(dtype: str, text_dtype: str | None, shard_bytes: int) -> None:
    for name, where in ((dtype, "--dtype"), (text_dtype, "--text-encoder")):
        if name is not None:
            check_one_of(name, PLAIN, f"no dtype {name!r}", where, otherwise="bf16")
    if shard_bytes < 1 << 20:
        raise UserError(
            f"files of {shard_bytes} bytes", where="--shard-size", rule="at least 1MB", fix="2GB"
        )


def _check_disk(plan: Conversion) -> None:
    if lacking := shortage(plan.out, plan.nbytes):
        raise UserError(
            f"the disk has no room for the copy: {lacking}",
            where=str(plan.out),
            rule=SPARE_RULE,
            fix="free some space, or name a folder on a larger disk by --out",
        )
