"""VAE, transformer, text encoder, tokenizer: each planted fault is named, and whose it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from scalekv.infinity_patch import Pipeline
from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.planning.health import Level
from scalekv.infinity_patch.selftest.parts import (
    KnownPicture,
    examine_pair,
    examine_round_trip,
    examine_tokens,
    round_trip,
)


@pytest.fixture(scope="module")
def known(pipeline: Pipeline, settled: Settled) -> KnownPicture:
    return round_trip(pipeline, settled)


@contextmanager
def changed(*parameters: torch.nn.Parameter) -> Iterator[None]:
    """Afterwards the weights are as they were."""
    before = [parameter.data.clone() for parameter in parameters]
    try:
        yield
    finally:
        for parameter, data in zip(parameters, before, strict=True):
            parameter.data = data


def test_the_parts_of_the_built_in_model(
    pipeline: Pipeline, settled: Settled, known: KnownPicture
) -> None:
    assert known.psnr > 20
    assert examine_round_trip(known).level is Level.FINE
    facts, findings = examine_pair(pipeline, settled, known, trained=True)
    assert [one.level for one in findings] == [Level.FINE] * 2
    assert facts["surprise"] < 0.6
    assert facts["surprise"] < min(facts["surprise_under_other_captions"].values())
    assert [one.level for one in examine_tokens(pipeline)] == [Level.FINE]


def test_a_vae_that_works_and_is_another_one(pipeline: Pipeline, settled: Settled) -> None:
    """Its bits mean something else: they are in another order, and some are turned."""
    out: Any = pipeline.vae.encoder.conv_out.conv
    into: Any = pipeline.vae.decoder.conv_in.conv
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    sign = 1.0 - 2 * (torch.arange(16) % 2)
    with changed(out.weight, out.bias, into.weight), torch.no_grad():
        out.weight.copy_(out.weight[order] * sign[:, None, None, None])
        out.bias.copy_(out.bias[order] * sign)
        into.weight.copy_(into.weight[:, order] * sign[None, :, None, None])
        swapped = round_trip(pipeline, settled)
        assert examine_round_trip(swapped).level is Level.FINE
        _, (finding,) = examine_pair(pipeline, settled, swapped, trained=True)
        assert finding.level is Level.PROBLEM
        assert "another VAE" in finding.found
        _, (finding,) = examine_pair(pipeline, settled, swapped, trained=False)
        assert "likelihood at chance" in finding.found
        assert "pictures are noise" in finding.found


def test_a_vae_that_does_not_work(pipeline: Pipeline, settled: Settled) -> None:
    weight: Any = pipeline.vae.decoder.mid.block_1.conv1.conv.weight
    first: Any = pipeline.vae.decoder.conv_in.conv.weight
    with changed(weight, first), torch.no_grad():
        first.mul_(-1)
        finding = examine_round_trip(round_trip(pipeline, settled))
    assert (finding.name, finding.level) == ("VAE, round trip", Level.PROBLEM)


def test_a_tokenizer_of_another_vocabulary(pipeline: Pipeline) -> None:
    """Of as many tokens, so that every one of them is known to the encoder."""
    import json

    content = json.loads(pipeline.text.counter.to_str())
    pieces = content["model"]["vocab"]
    special = 3
    content["model"]["vocab"] = pieces[:special] + pieces[: special - 1 : -1]
    other = Tokenizer.from_str(json.dumps(content))
    stand_in: Any = SimpleNamespace(preset=pipeline.preset, text=SimpleNamespace(counter=other))
    (finding,) = examine_tokens(stand_in)
    assert finding.level is Level.PROBLEM
    assert "of another vocabulary" in finding.found
    assert "'hello world'" in finding.found


def test_a_text_encoder_that_says_nothing(
    pipeline: Pipeline, settled: Settled, known: KnownPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        pipeline.text, "encode", lambda prompts: [torch.ones(4, 256)] * len(prompts)
    )
    _, findings = examine_pair(pipeline, settled, known, trained=True)
    assert findings[-1].level is Level.PROBLEM
    assert findings[-1].name in ("transformer and text", "transformer and VAE")
