"""How many kernels a block launches on a CUDA device, counted on tensors without memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from scalekv.configs.models import model_named
from scalekv.infinity_patch.compute import products
from scalekv.infinity_patch.generation.patch import patched
from scalekv.infinity_patch.model import attention, rotary, transformer
from scalekv.infinity_patch.model.scale_loop import Guidance, conditions, generate_codes
from scalekv.infinity_patch.model.transformer import Infinity
from scalekv.infinity_patch.pieces import padded_text
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv import to_device
from scalekv.kv.kernels import pooling
from scalekv.kv.kernels.operator import NAMESPACE, OPERATORS
from scalekv.kv.policies import selection
from scalekv.kv.policies.coded import CodedPolicy
from scalekv.kv.policies.policy import Policy
from scripts.bench.stretched import stretched

NO_LAUNCH = (
    *("view", "_unsafe_view", "reshape", "transpose", "t", "permute", "expand", "slice", "select"),
    *("unsqueeze", "squeeze", "split", "split_with_sizes", "unbind", "alias", "detach", "chunk"),
    *("empty", "empty_like", "empty_strided", "new_empty", "as_strided", "view_as_real", "lift"),
    *("unflatten", "_to_copy_view", "unfold", "diagonal", "is_pinned", "_pin_memory"),
)
KEPT = (
    rotary._kept_table,
    to_device.whole_numbers,
    to_device.counting_up,
    pooling._maps,
    selection.window_tokens,
)
"""Small tensors made once a device: those made here have no memory."""


class Launches(TorchDispatchMode):
    """Counts kernels: of an operator of ours as many as it declares, of torch's one each that is
    more than another view of the same memory; and what comes from the host's memory, which no
    recording could bring again."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.names: Counter[str] = Counter()
        self.from_host: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket._qualified_op_name.split("::")
        count = 1
        if name[0] == NAMESPACE:
            count = OPERATORS[name[1]].launches
        elif name[1] in NO_LAUNCH or name[0] == "prim":
            count = 0
        made = [x for x in tree_flatten(out)[0] if isinstance(x, Tensor)]
        if any(x.device.type == "cuda" for x in made) and any(
            isinstance(x, Tensor) and x.device.type == "cpu" for x in tree_flatten(args)[0]
        ):
            self.from_host[name[1]] += 1
        if count:
            self.total += count
            self.names[name[1]] += count
        return out


class Device(TorchFunctionMode):
    """Attention as a device has it, one kernel whose answer lies as the queries do; and indexing,
    in which a torch without CUDA would look for the device."""

    def __init__(self, counting: Launches) -> None:
        super().__init__()
        self.counting = counting

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            q, k, v = args[:3]
            assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
            self.counting.total += 1
            self.counting.names["attention"] += 1
            return torch.empty_like(q)
        if func is F.interpolate:  # between scales, in no block
            return args[0].new_empty((*args[0].shape[:2], *kwargs["size"]))
        if func is Tensor.pin_memory:
            return args[0]
        if func is Tensor.data_ptr:
            return id(args[0])
        if func is Tensor.contiguous:
            x = args[0]
            return x if x.is_contiguous() else x.clone(memory_format=torch.contiguous_format)
        if func in (Tensor.float, Tensor.to) and (dtype := _other_dtype(func, *args)) is not None:
            return torch.ops.aten._to_copy(args[0], dtype=dtype)
        if func is Tensor.copy_:
            return torch.ops.aten.copy_(*args[:2])
        if func is Tensor.__getitem__:
            return indexed(*args)
        if func is Tensor.__setitem__:
            x, index, value = args
            into = indexed(x, index)
            if isinstance(value, Tensor):
                return torch.ops.aten.copy_(into, value)
            return into.fill_(value)
        return func(*args, **(kwargs or {}))


def _other_dtype(func: Any, x: Tensor, *others: Any) -> torch.dtype | None:
    """What a conversion gives, where it is not what there is."""
    asked = [torch.float32] if func is Tensor.float else others
    return next((d for d in asked if isinstance(d, torch.dtype) and d != x.dtype), None)


def indexed(x: Tensor, index: Any) -> Tensor:
    """x[index] by the operators for it, of numbers, slices, None and ..."""
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        place = index.index(Ellipsis)
        named = sum(part is not None for part in index) - 1
        index = (*index[:place], *[slice(None)] * (x.dim() - named), *index[place + 1 :])
    dim = 0
    for part in index:
        if part is None:
            x = x.unsqueeze(dim)
        elif isinstance(part, int):
            x = x.select(dim, part)
            continue
        else:
            assert isinstance(part, slice), part
            x = torch.ops.aten.slice(x, dim, part.start, part.stop, part.step or 1)
        dim += 1
    return x


@pytest.fixture
def no_memory() -> Iterator[FakeTensorMode]:
    for kept in KEPT:
        kept.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, pytest.MonkeyPatch.context() as patch:
        for module in (products, attention, transformer):  # a weight without memory is of no type
            patch.setattr(module, "is_plain", lambda layer: True)
        yield mode
    for kept in KEPT:
        kept.cache_clear()


@dataclass
class Launched:
    """Of one picture.

    counts: [scale][block] kernels; chosen: likewise whether tokens were chosen; names: of all;
    total: all, outside of blocks too; from_host: what came from the host's memory.
    """

    counts: list[list[int]]
    chosen: list[list[bool]]
    names: Counter[str]
    total: int
    from_host: Counter[str]


def launches(
    policy: str | Policy,
    budget: str,
    name: str = "infinity-2b",
    pixels: str = "1M",
    blocks: int = 3,
) -> Launched:
    """Of the second picture of a model with so many blocks."""
    preset = model_named(name)
    spec = replace(preset.transformer, depth=blocks, chunks=1)
    schedule = schedule_for("1:1", pixels)
    with torch.device("meta"):
        model = Infinity(spec, preset.tokenizer.token_bits)
    for name, child in model.named_modules():
        dtype = torch.bfloat16 if name.startswith("block_chunks") else torch.float32
        for key, value in child._parameters.items():
            if value is not None:
                empty = torch.empty(value.shape, dtype=dtype, device="cuda")
                child._parameters[key] = nn.Parameter(empty, requires_grad=False)
    model.eval()
    scales = len(schedule)
    guidance = Guidance((3.0,) * scales, (1.0,) * scales)
    counts: list[list[int]] = [[] for _ in range(scales)]
    chosen: list[list[bool]] = [[] for _ in range(scales)]
    counting = Launches()

    def choose(scale: int, logits: Tensor) -> Tensor:
        return torch.zeros(logits.shape[:3], dtype=torch.uint8, device="cuda")

    with (
        torch.no_grad(),
        patched(model, policy, budget, schedule, guided=True),
        counting,
        Device(counting),
    ):
        start = {}
        for block in model.blocks:

            def begin(module: Any, args: Any, of: Any = block) -> None:
                start[of] = counting.total, counting.names["best_slots"]

            def end(module: Any, args: Any, out: Any, of: Any = block) -> None:
                scale = args[-1]
                counts[scale].append(counting.total - start[of][0])
                chosen[scale].append(counting.names["best_slots"] > start[of][1])

            block.register_forward_pre_hook(begin)
            block.register_forward_hook(end)
        text = torch.empty((20, spec.text_width), device="cuda")
        condition = conditions(model, [text], None, guidance, padded_text(20, spec.text_max))
        for _ in range(2):  # what is made once is there for the second picture
            for lists in (counts, chosen):
                for row in lists:
                    row.clear()
            names, host = counting.names.copy(), counting.from_host.copy()
            total = counting.total
            generate_codes(model, condition, schedule, False, guidance, choose)
    names, host = counting.names - names, counting.from_host - host
    return Launched(counts, chosen, names, counting.total - total, host)


def test_full(no_memory: FakeTensorMode) -> None:
    found = launches("full", "full")
    assert max(map(max, found.counts)) <= 16, found.names


def test_scalekv(no_memory: FakeTensorMode) -> None:
    found = launches("scalekv", "10%")
    counts, chosen, names = found.counts, found.chosen, found.names
    plain = [
        n
        for row, part in zip(counts, chosen, strict=True)
        for n, selects in zip(row, part, strict=True)
        if not selects
    ]
    selecting = [
        n
        for row, part in zip(counts, chosen, strict=True)
        for n, selects in zip(row, part, strict=True)
        if selects
    ]
    assert max(plain) <= 20, names
    assert selecting, "tokens are chosen"
    assert max(selecting) <= max(plain) + 8, names


def test_coded_built_in(no_memory: FakeTensorMode) -> None:
    """Of a whole picture; nothing comes from the host once the first one is drawn."""
    found = launches("coded", "10%", "emoji", "0.06M", 8)
    assert max(map(max, found.counts)) <= 16 + 22, found.names
    assert found.total <= 1520, found.names  # 880 of them are the full cache's
    assert not found.from_host


def test_coded(no_memory: FakeTensorMode) -> None:
    spec = model_named("infinity-2b").transformer
    policy = CodedPolicy(stretched(1, spec.heads, spec.head_dim))
    found = launches(policy, "10%", pixels="0.25M", blocks=1)
    assert max(map(max, found.counts)) <= 16 + 70, found.names
    assert not found.from_host
