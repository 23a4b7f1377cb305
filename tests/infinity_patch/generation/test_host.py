"""A library in somebody else's program: its autocast, defaults, copies, writes and settings."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from scalekv.infinity_patch import generate, load, patched
from scalekv.kv.policies.registry import policy_names
from tests.infinity_patch.small import ready, run, small_model


@pytest.mark.parametrize(
    ("policy", "kv_dtype"),
    [
        (policy, kv_dtype)
        for policy in policy_names()
        for kv_dtype in ("auto", "fp32", "int8", "int4")
        if policy != "coded" or kv_dtype == "auto"  # its bits are the budget's
    ],
)
def test_autocast_changes_nothing(policy: str, kv_dtype: str) -> None:
    model = small_model(torch.bfloat16)
    found: list[Any] = []
    for enabled in (False, True):
        inside = patched(model, ready(policy), "25%", kv_dtype=kv_dtype, guided=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled), inside as caches:
            _, logits = run(model)
            kept = [cache.tokens_by_head for cache in caches.layers]
            held = caches.peak_nbytes
        found.append((logits, kept, held))
    (plain, *held), (cast, *also) = found
    assert held == also
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_autocast_changes_no_pixel(dtype: str) -> None:
    pipeline = load("emoji", device="cpu", dtype=dtype)
    picture = next(generate(pipeline, "a red apple"))
    pipeline = load("emoji", device="cpu", dtype=dtype)  # which has encoded nothing yet
    with torch.autocast("cpu", torch.bfloat16):
        same = next(generate(pipeline, "a red apple"))
    assert picture.image.tobytes() == same.image.tobytes()


@contextmanager
def defaults(dtype: torch.dtype, device: str) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device(None)


def test_defaults_of_the_host_program_change_no_pixel() -> None:
    wanted = next(generate(load("emoji", device="cpu"), "a red apple")).image.tobytes()
    with defaults(torch.float64, "meta"):
        pipeline = load("emoji", device="cpu")
        for budget in ("10%", "full"):
            with patched(pipeline.model, budget=budget):
                picture = next(generate(pipeline, "a red apple"))
            if budget == "10%":
                assert picture.image.tobytes() == wanted


def test_blocks_in_float64() -> None:
    wanted, _ = run(small_model(), inside=None)
    model = small_model(torch.float64)
    for policy, kv_dtype in (("full", "auto"), ("scalekv", "auto"), ("scalekv", "int8")):
        with patched(model, policy, "50%", kv_dtype=kv_dtype) as caches:
            codes, logits = run(model)
        assert all(scale.isfinite().all() for scale in logits)
        assert caches.ledger is not None
        assert caches.ledger.shape.k_bytes == 8
        if policy == "full":
            assert (codes == wanted).float().mean() > 0.99


def test_a_copy_computes_with_its_own_weights() -> None:
    model = small_model()
    run(model)  # whatever is kept of the parameters is kept now
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    assert not torch.equal(run(other)[1][0], run(model)[1][0])


@pytest.mark.parametrize("name", ["q_bias", "v_bias", "scale_mul_1H11"])
def test_what_is_written_through_data_counts(name: str) -> None:
    changed, fresh = small_model(), small_model()
    run(changed)  # whatever is kept of the parameters is kept now
    for model in (changed, fresh):
        for block in model.blocks:
            block.sa.get_parameter(name).data.add_(0.25)
    for policy in (None, "full"):
        inside = [None if policy is None else patched(m, policy) for m in (changed, fresh)]
        one, other = (run(m, inside=i)[1] for m, i in zip((changed, fresh), inside, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
