"""Reading tensors from checkpoints of every published layout, never anything but tensors.

A safetensors or PyTorch file, or a folder of shards of either with its index. A PyTorch file is a
plain state dict, one under "vae", or a training checkpoint with the transformer under "trainer",
"gpt_fsdp". Files are memory-mapped: pages are read when a tensor is used and let go afterwards.
Knows names, shapes and files; nothing of models.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scalekv.infinity_patch.compute.mapped import let_go
from scalekv.infinity_patch.loading.aligned_file import aligned
from scalekv.kv.errors import UserError

NESTED = (("vae",), ("trainer", "gpt_fsdp"))
INDEXES = ("*.safetensors.index.json", "*.bin.index.json")
"""How the lists of shards are called, the preferred ones first."""
WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What compiling and sharding a module put into the names of its tensors, at any place."""
PARALLEL = "module."
"""What data parallel training puts before all names; further in it is a name of the model's own."""
MOST_PICKLE_BYTES = 64 << 20
"""Of the part of a PyTorch file that is no tensor data; the largest model has under 1 MiB."""


class WeightsDamaged(UserError):
    """A weights file is not what the model needs."""

    kind = "weights-damaged"


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in a checkpoint, not read: shape, and the kind of its numbers ("F32", "int64")."""

    shape: tuple[int, ...]
    kind: str

    @property
    def floating(self) -> bool:
        """Whether its numbers are floating-point ones."""
        return self.kind.lower().startswith(("f", "bf"))


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint, none of them read yet.

    path: where it is; entries: shapes and kinds by name; read: the tensor of a name, a view of the
    mapped file; wrapped: names in the file had parts that wrapping a module adds.
    """

    path: Path
    entries: Mapping[str, TensorEntry]
    read: Callable[[str], Tensor]
    wrapped: bool = False

    def take(self, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor in the dtype and on the device it is wanted in.

        A converted or moved one leaves no page of the file in memory; one that already is as it is
        wanted, and begins in the file where torch would have put it, stays a view of the file,
        whose pages the system may drop and read again.

        Raises:
            WeightsDamaged: the file cannot be read there.
            UserError: numbers that do not fit fp16, where that is wanted.
        """
        mapped = self._mapped(name)
        tensor = mapped.to(device, dtype).contiguous()
        if not aligned(tensor):
            tensor = tensor.clone()
        if tensor.data_ptr() != mapped.data_ptr():
            let_go(mapped)
        if dtype is torch.float16 and not tensor.isfinite().all():
            raise UserError(
                f"{name} has numbers that do not fit fp16",
                where=str(self.path),
                rule=f"at most {torch.finfo(dtype).max:g} in size",
                fix="--dtype bf16",
            )
        return tensor

    @contextmanager
    def passing(self, name: str) -> Iterator[Tensor]:
        """A tensor as the file has it, for the block alone: then its pages are let go.

        Raises:
            WeightsDamaged: the file cannot be read there.
        """
        mapped = self._mapped(name)
        try:
            yield mapped
        finally:
            let_go(mapped)

    def _mapped(self, name: str) -> Tensor:
        try:
            return self.read(name)
        except (SafetensorError, RuntimeError, ValueError, OSError) as error:
            raise _unreadable(self.path, error) from error


@contextmanager
def open_checkpoint(path: Path) -> Iterator[Checkpoint]:
    """The checkpoint at `path`, memory-mapped, until the block ends.

    Tensors that are views of the file stay valid after the block.

    Raises:
        WeightsDamaged: not whole, not a checkpoint, or with anything in it but tensors.
    """
    with ExitStack() as stack:
        try:
            checkpoint = (_folder if path.is_dir() else _file)(path, stack)
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error
        yield _unwrapped(checkpoint)


def _unwrapped(checkpoint: Checkpoint) -> Checkpoint:
    """The same tensors under the names they have in the model itself."""
    own = {name: WRAPPERS.sub("", name) for name in checkpoint.entries}
    while own and all(name.startswith(PARALLEL) for name in own.values()):
        own = {name: inner.removeprefix(PARALLEL) for name, inner in own.items()}
    inside = {inner: name for name, inner in own.items()}
    if inside.keys() == own.keys() or len(inside) < len(own):
        return checkpoint
    return Checkpoint(
        checkpoint.path,
        {inner: checkpoint.entries[name] for inner, name in inside.items()},
        lambda name: checkpoint.read(inside[name]),
        wrapped=True,
    )


def _unreadable(path: Path, error: Exception) -> WeightsDamaged:
    reason = str(error).splitlines() or [type(error).__name__]
    return WeightsDamaged(
        f"{path.name} cannot be read: {reason[0]}",
        where=str(path),
        rule="weights are whole files that hold tensors alone; code in them is never run",
        fix="fetch it again, or install scalekv again if it came with it",
    )


def _file(path: Path, stack: ExitStack) -> Checkpoint:
    if path.suffix == ".safetensors":
        return _safetensors_file(path, stack)
    return _torch_file(path)


def _safetensors_file(path: Path, stack: ExitStack) -> Checkpoint:
    file: Any = stack.enter_context(safe_open(path, framework="pt"))
    entries = {}
    for name in file.keys():  # noqa: SIM118 (no mapping)
        part = file.get_slice(name)
        entries[name] = TensorEntry(tuple(part.get_shape()), str(part.get_dtype()))
    return Checkpoint(path, entries, file.get_tensor)


def _folder(folder: Path, stack: ExitStack) -> Checkpoint:
    indexes = next((found for p in INDEXES if (found := sorted(folder.glob(p)))), [])
    alone = sorted(folder.glob("*.safetensors"))
    if not indexes and len(alone) == 1:
        return _safetensors_file(alone[0], stack)
    if len(indexes) != 1:
        raise WeightsDamaged(
            f"{folder.name} has {len(indexes)} index files",
            where=str(folder),
            rule="a folder of shards has one *.safetensors.index.json or *.bin.index.json",
            fix="fetch it again",
        )
    places = _places(indexes[0])
    shards: dict[str, Checkpoint] = {}
    for name in sorted(set(places.values())):
        if not (folder / name).is_file():
            raise WeightsDamaged(
                f"the shard {name} is missing",
                where=str(folder),
                rule=f"{indexes[0].name} lists it",
                fix="fetch it again",
            )
        shards[name] = _file(folder / name, stack)
    entries = {}
    for tensor, shard in places.items():
        if tensor not in shards[shard].entries:
            raise WeightsDamaged(
                f"{tensor} is not in the shard {shard}",
                where=str(folder),
                rule=f"{indexes[0].name} says that it is",
                fix="fetch it again",
            )
        entries[tensor] = shards[shard].entries[tensor]
    return Checkpoint(folder, entries, lambda name: shards[places[name]].read(name))


def _places(index: Path) -> dict[str, str]:
    """The shard of every tensor, as an index lists them."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = list(places.values())
        whole = bool(names) and all(isinstance(name, str) for name in names)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise WeightsDamaged(
            f"{index.name} is not an index of shards",
            where=str(index),
            rule='it has a "weight_map" of tensors to file names',
            fix="fetch it again",
        )
    for name in names:
        if Path(name).name != name or name in ("", ".", ".."):
            raise WeightsDamaged(
                f"{index.name} names {name!r}, which is not in its folder",
                where=str(index),
                rule="shards are files beside their index",
                fix="fetch it again",
            )
    return dict(places)


def _torch_file(path: Path) -> Checkpoint:
    _check_archive(path)
    try:
        held: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsDamaged(
            f"{path.name} holds more than tensors",
            where=str(path),
            rule="only tensors and plain values are read; code in a file is never run",
            fix="save its state dict alone, or take a checkpoint from somewhere you trust",
        ) from error
    except (RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from error
    for keys in NESTED:
        if isinstance(held, dict) and keys[0] in held:
            for key in keys:
                held = held.get(key) if isinstance(held, dict) else None
            break
    if not isinstance(held, dict) or not held or not all(map(_plain, held.items())):
        raise WeightsDamaged(
            f"{path.name} holds no state dict",
            where=str(path),
            rule='names to tensors, plain, under "vae", or under "trainer", "gpt_fsdp"',
            fix="give a checkpoint of the model's weights",
        )
    tensors: dict[str, Tensor] = held
    entries = {
        name: TensorEntry(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in tensors.items()
    }
    return Checkpoint(path, entries, tensors.__getitem__)


def _plain(item: tuple[Any, Any]) -> bool:
    """Whether this is a name and an ordinary tensor (no sparse, quantised or shapeless one)."""
    name, value = item
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout is torch.strided
        and not value.is_quantized
        and value.device.type == "cpu"
    )


def _check_archive(path: Path) -> None:
    """Refuses what unpacks to more than the file is: everything is stored, nothing overlaps."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _unreadable(path, error) from error
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    pickles = [entry.file_size for entry in entries if entry.filename.endswith(".pkl")]
    fits = sum(entry.file_size for entry in entries) <= path.stat().st_size
    if not stored or not fits or max(pickles, default=0) > MOST_PICKLE_BYTES:
        raise WeightsDamaged(
            f"{path.name} would unpack to more than it is",
            where=str(path),
            rule="a PyTorch file keeps its tensors as they are, not compressed",
            fix="fetch it again from somewhere you trust",
        )
