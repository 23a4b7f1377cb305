"""Reading tensors from checkpoints of every published layout, never anything but tensors.

One safetensors file, a folder of shards with its index, or a PyTorch file: a plain state dict, one
under "vae", or a training checkpoint with the transformer under "trainer", "gpt_fsdp". Knows
names and shapes; nothing of models.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scalekv.kv.errors import UserError

NESTED = (("vae",), ("trainer", "gpt_fsdp"))


class WeightsDamaged(UserError):
    """A weights file is not what the model needs."""

    kind = "weights-damaged"


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint, none of them read yet: shapes by name, and how to read one."""

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


@contextmanager
def open_checkpoint(path: Path) -> Iterator[Checkpoint]:
    """The checkpoint at `path`, memory-mapped, until the block ends.

    Raises:
        WeightsDamaged: not whole, not a checkpoint, or with anything in it but tensors.
    """
    try:
        if path.is_dir():
            with _shards(path) as checkpoint:
                yield checkpoint
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                yield Checkpoint(_shapes(file), file.get_tensor)
        else:
            yield _torch_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> WeightsDamaged:
    said = str(error).splitlines() or [type(error).__name__]
    return WeightsDamaged(
        f"{path.name} cannot be read: {said[0]}",
        where=str(path),
        rule="weights are whole files that hold tensors alone; code in them is never run",
        fix="fetch it again, or install scalekv again if it came with it",
    )


def _shapes(file: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _shards(folder: Path) -> Iterator[Checkpoint]:
    indexes = sorted(folder.glob("*.index.json"))
    if len(indexes) != 1:
        raise WeightsDamaged(
            f"{folder.name} has {len(indexes)} index files",
            where=str(folder),
            rule="a folder of shards has one *.safetensors.index.json",
            fix="fetch it again",
        )
    try:
        places: dict[str, str] = json.loads(indexes[0].read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError) as error:
        raise WeightsDamaged(
            f"{indexes[0].name} is not an index of shards",
            where=str(indexes[0]),
            fix="fetch it again",
        ) from error
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for shard in sorted(set(places.values())):
            if not (folder / shard).is_file():
                raise WeightsDamaged(
                    f"the shard {shard} is missing",
                    where=str(folder),
                    rule=f"{indexes[0].name} lists it",
                    fix="fetch it again",
                )
            files[shard] = stack.enter_context(safe_open(folder / shard, framework="pt"))
        shapes = {name: shape for file in files.values() for name, shape in _shapes(file).items()}
        yield Checkpoint(shapes, lambda name: files[places[name]].get_tensor(name))


def _torch_file(path: Path) -> Checkpoint:
    try:
        held: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise _unreadable(path, error) from error
    for keys in NESTED:
        if isinstance(held, dict) and keys[0] in held:
            for key in keys:
                held = held.get(key) if isinstance(held, dict) else None
            break
    if not isinstance(held, dict) or not all(isinstance(v, Tensor) for v in held.values()):
        raise WeightsDamaged(
            f"{path.name} holds no state dict",
            where=str(path),
            rule='names to tensors, plain, under "vae", or under "trainer", "gpt_fsdp"',
            fix="give a checkpoint of the model's weights",
        )
    tensors: dict[str, Tensor] = held
    return Checkpoint({n: tuple(t.shape) for n, t in tensors.items()}, tensors.__getitem__)
