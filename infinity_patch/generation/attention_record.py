"""Queries, keys, values and attention of chosen layers and scales, written to a safetensors file
while a picture is drawn. One tensor is in memory at a time.

Of scale 5 and layer 0 (scales from 1, layers from 0) there are, with B sequences (guidance halves,
conditional first), H heads, L tokens of the scale and T tokens that it attends to, its own last:

    scale5.layer0.q           (B, H, L, D)  normalised, scaled and rotated: the softmax scale is 1
    scale5.layer0.k           (B, H, T, D)  as attention reads them: rotated, decoded, dequantised
    scale5.layer0.v           (B, H, T, D)
    scale5.layer0.attention   (B, H, T)     float32, what each token gets, summed over the queries
    scale5.layer0.positions   (B, H, T)     int32, the tokens' places in the picture
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from scalekv.configs.recorded import AttentionChoice
from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.files.disk import SPARE_RULE, shortage
from scalekv.infinity_patch.loading.aligned_file import ALIGNMENT, NAMES
from scalekv.kv.budgets.moments import within
from scalekv.kv.caches.caches import Caches
from scalekv.kv.errors import UserError
from scalekv.kv.kernels.mass import attention_mass
from scalekv.kv.schedule import Schedule

ENTRY_BYTES = 160
"""Of the file's header for one tensor, at most: name, dtype, and six numbers of up to 13 digits."""
LOGITS = 1 << 24
"""Weights of attention that are computed at a time, which bounds the queries at a time."""
KINDS = ("q", "k", "v", "attention", "positions")


class AttentionRecorder:
    """Writes a file for every picture; `begin` is for `generate(on_caches=…)`, one picture at a
    time.

    Args:
        choice: layers and scales.
        settled: the pictures' request, one picture at a time.
        folder: where hidden files are written until they are given a name.
        owner: what the names of hidden files begin with.

    Raises:
        UserError: a layer or scale that there is not, heads that hold unequally many tokens, or too
            little room on the disk for one picture.
    """

    def __init__(
        self, choice: AttentionChoice, settled: Settled, folder: Path, owner: str = ".scalekv-"
    ) -> None:
        self._folder, self._owner = folder, owner
        self._layers, self._scales = chosen(choice, settled)
        needed = recorded_bytes(choice, settled)
        if lacking := shortage(folder, needed):
            raise UserError(
                f"what is to be recorded of a picture does not fit: {lacking}",
                where="--record",
                rule=SPARE_RULE,
                fix="fewer layers or scales: --record qkv:layers=0,4:scales=5-7",
            )
        self._about = {
            "format": "pt",
            "model": settled.preset.name,
            "policy": settled.policy_name,
            "schedule": str(settled.schedule),
            "layers": ",".join(map(str, self._layers)),
            "scales": ",".join(str(scale + 1) for scale in self._scales),
        }
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self._caches: Caches | None = None
        self._header: dict[str, Any] = {}
        self._end = 0

    def begin(self, _index: int, caches: Caches) -> None:
        """A picture begins, with these caches: a new file."""
        self.discard()
        self._path = self._folder / f"{self._owner}{secrets.token_hex(8)}.part"
        # unbuffered: what is written is gone from memory
        self._file = open(self._path, "xb", buffering=0)  # noqa: SIM115 (closed by finish)
        self._header, self._end = {"__metadata__": self._about}, 0
        self._file.write(bytes(self._room))
        self._caches = caches
        caches.observer = self._observe

    def finish(self) -> tuple[Path, dict[str, Any]]:
        """The picture's file, whole and on the disk under its hidden name, and what to say of it
        beside the picture."""
        assert self._file is not None, "no picture was begun"
        assert self._path is not None, "it has a name"
        text = json.dumps(self._header, separators=(",", ":")).encode()
        assert len(text) <= self._room - 8, (len(text), self._room)
        self._file.seek(0)
        length = self._room - 8  # the format allows spaces behind the header
        self._file.write(length.to_bytes(8, "little") + text.ljust(length))
        os.fsync(self._file.fileno())
        self._file.close()
        path, self._file, self._path, self._caches = self._path, None, None, None
        facts = {
            "layers": list(self._layers),
            "scales": [scale + 1 for scale in self._scales],
            "bytes": path.stat().st_size,
        }
        return path, facts

    def discard(self) -> None:
        """Removes the file of a picture that was not finished."""
        if self._file is not None:
            self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self._file = self._path = self._caches = None

    @property
    def _room(self) -> int:
        """Bytes before the tensors."""
        entries = len(self._layers) * len(self._scales) * len(KINDS)
        room = 8 + len(json.dumps({"__metadata__": self._about})) + entries * ENTRY_BYTES
        return room + -room % ALIGNMENT

    def _observe(
        self, layer: int, scale: int, schedule: Schedule, q: Tensor, k: Tensor, v: Tensor
    ) -> None:
        """See `scalekv.kv.caches.attending.Observer`."""
        if layer not in self._layers or scale not in self._scales:
            return
        prefix = f"scale{scale + 1}.layer{layer}"
        with torch.no_grad():
            for kind, tensor in zip(
                KINDS,
                (q, k, v, _attention(q, k), self._positions(layer, schedule, q, k)),
                strict=True,
            ):
                self._write(f"{prefix}.{kind}", tensor)

    def _positions(self, layer: int, schedule: Schedule, q: Tensor, k: Tensor) -> Tensor:
        assert self._caches is not None, "a picture was begun"
        cache = self._caches.layers[layer]
        known = cache.groups[0].positions_with(cache.seen, q.shape[2], schedule.total, q)
        if known is None:
            known = torch.arange(k.shape[2], dtype=torch.int32, device=k.device)
        return known.expand(k.shape[:3])

    def _write(self, name: str, tensor: Tensor) -> None:
        assert self._file is not None, "a picture was begun"
        start, self._end = self._end, self._end + tensor.nbytes
        self._header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, self._end],
        }
        flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        view = memoryview(flat.numpy().data)
        while view:
            view = view[self._file.write(view) :]


def _attention(q: Tensor, k: Tensor) -> Tensor:
    """(B, H, T) float32: what each token gets of all queries."""
    batch, heads, length, _ = q.shape
    step = max(LOGITS // (batch * heads * k.shape[2]), 1)
    total = torch.zeros(k.shape[:3], dtype=torch.float32, device=k.device)
    for start in range(0, length, step):
        total += attention_mass(q[:, :, start : start + step].contiguous(), k)
    return total


def chosen(choice: AttentionChoice, settled: Settled) -> tuple[Sequence[int], Sequence[int]]:
    """The layers and scales to record of a request, both from 0.

    Raises:
        UserError: some that there are not, or heads that hold unequally many tokens.
    """
    if settled.planned is not None and settled.planned.heads:
        raise UserError(
            f"the policy {settled.policy_name} holds unequally many tokens in the heads of a layer",
            where="--record",
            rule="a tensor has one number of tokens for all heads",
            fix="record another policy, or the full cache: --policy full",
        )
    try:
        return choice.of(settled.preset.transformer.depth, len(settled.schedule))
    except ValueError as error:
        raise UserError(
            f"there is no {error}",
            where="--record",
            rule="layers from 0, scales from 1, as the model and the size have them",
            fix="--record qkv records all of them",
        ) from None


def recorded_bytes(choice: AttentionChoice, settled: Settled) -> int:
    """The most that a picture's file takes, but for its header."""
    shape, schedule = settled.shape, settled.schedule
    layers, scales = chosen(choice, settled)
    rows = shape.sequences * shape.heads // settled.together
    total = 0
    for scale in scales:
        new = schedule.tokens[scale]
        for held in _held(settled, scale, layers):
            of_k = rows * (held + new)
            total += shape.head_dim * (rows * new + 2 * of_k) * shape.k_bytes + 8 * of_k
    return total


def _held(settled: Settled, scale: int, layers: Sequence[int]) -> Iterator[int]:
    """The most tokens each layer may hold while a scale is drawn."""
    budget = settled.planned
    if budget is None or settled.constants is not None:  # a coded cache drops none
        yield from (settled.schedule.before(scale) for _ in layers)
    else:
        limits = within(budget)
        yield from (limits.capacity(scale, layer) for layer in layers)
