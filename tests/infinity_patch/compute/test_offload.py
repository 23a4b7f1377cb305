"""Blocks that take turns on a device: the same bits, and never more of them there than asked for.

A second piece of host memory stands in for the device: blocks are copied there and used there.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from scalekv.infinity_patch.compute.offload import BlockStream
from scalekv.infinity_patch.generation.patch import patched
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.model.transformer import Block, Infinity
from tests.infinity_patch.small import SPEC, run, small_model

HOST = torch.device("cpu")


def streamed(model: Infinity, resident: int, poisoned: bool = True) -> BlockStream[Block]:
    """The model's blocks in turn. Away from the device they would compute NaN, if they did."""
    stream = BlockStream(model.blocks, HOST, resident)
    model.stream = stream
    for home in stream._homes if poisoned else []:
        home.parameters = [
            nn.Parameter(torch.full_like(p, torch.nan), False) for p in home.parameters
        ]
        for (module, name), parameter in zip(home.places, home.parameters, strict=True):
            module.register_parameter(name, parameter)
    return stream


def on_device(stream: BlockStream[Block]) -> list[int]:
    """Indices of the blocks whose parameters lie in the stream's places."""
    inside = {slot.untyped_storage().data_ptr() for slot in stream._slots}
    return [
        i
        for i, block in enumerate(stream.blocks)
        if all(p.untyped_storage().data_ptr() in inside for p in block.parameters())
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("resident", [1, 2, 3, 9])
def test_the_same_bits_with_few_blocks_on_the_device(dtype: torch.dtype, resident: int) -> None:
    plain, model = small_model(dtype), small_model(dtype)
    stream = streamed(model, resident)
    seen: list[list[int]] = []
    for i, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda *_, i=i: seen.append([i, *on_device(stream)]))
    codes, logits = run(plain)
    same, again = run(model)
    assert torch.equal(codes, same)
    assert all(torch.equal(a, b) for a, b in zip(logits, again, strict=True))
    count = min(resident, SPEC.depth)
    for computing, *found in seen:
        assert computing in found
        assert len(found) <= count
        assert found == list(range(computing, min(computing + count, SPEC.depth)))
    assert on_device(stream) == []
    block_bytes = sum(p.nbytes for p in plain.blocks[0].parameters())
    assert count * block_bytes <= stream.nbytes < count * (block_bytes + 20 * 256)


def test_the_same_bits_under_a_patch() -> None:
    plain, model = small_model(), small_model()
    streamed(model, 2)
    codes, _ = run(plain, inside=patched(plain, budget="20%"))
    same, _ = run(model, inside=patched(model, budget="20%"))
    assert torch.equal(codes, same)


def test_an_exception_brings_all_blocks_home() -> None:
    model = small_model()
    stream = streamed(model, 2, poisoned=False)
    expected, _ = run(small_model())

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    hook = model.blocks[2].register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        run(model)
    assert on_device(stream) == []
    hook.remove()
    assert torch.equal(run(model)[0], expected)


def test_weights_keep_their_names_and_values() -> None:
    plain, model = small_model(), small_model()
    streamed(model, 2, poisoned=False)
    state = model.state_dict()
    assert state.keys() == plain.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())


@pytest.mark.gpu
@pytest.mark.parametrize("resident", [1, 2, 3])
def test_the_same_bits_on_a_gpu(resident: int) -> None:
    device = torch.device("cuda")
    plain, model = small_model(torch.bfloat16).to(device), small_model(torch.bfloat16)
    for name, child in model.named_children():
        if name != "block_chunks":
            child.to(device)
    for name in ("cfg_uncond", "pos_start"):
        model.register_parameter(name, nn.Parameter(model.get_parameter(name).to(device), False))
    model.stream = BlockStream(model.blocks, device, resident)
    for _ in range(3):  # copies and computing overlap differently each time
        assert torch.equal(run(plain)[0], run(model)[0])
    assert all(p.is_pinned() for block in model.blocks for p in block.parameters())


@pytest.mark.gpu
def test_pictures_of_an_offloaded_model() -> None:
    from scalekv.infinity_patch import Request, generate, load

    request = Request(("a red apple",), seed=3)
    plain = load("emoji", device="cuda")
    model = load("emoji", device="cuda", placement=Placement(offload=True))
    assert {p.device.type for p in model.model.block_chunks.parameters()} == {"cpu"}
    pictures = [next(generate(pipeline, request)).image for pipeline in (plain, model)]
    assert pictures[0].tobytes() == pictures[1].tobytes()
