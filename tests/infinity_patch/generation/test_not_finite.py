"""Numbers that are not finite are said, and never drawn."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalekv.infinity_patch import Request, generate, load
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.generation.pipeline import NotFinite
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.infinity_patch.model.sampling import BitSampler
from scalekv.kv.errors import UserError


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load("emoji", device="cpu", dtype="fp32")


@pytest.fixture
def one_number(pipeline: Pipeline) -> Iterator[dict[str, Tensor]]:
    """The model's tensors by part and name, put back afterwards."""
    tensors = dict(pipeline.model.named_parameters()) | dict(pipeline.vae.named_parameters())
    # mapped from the file: copies, so that none of it is written to
    kept = {name: parameter.data for name, parameter in tensors.items()}
    for parameter in tensors.values():
        parameter.data = parameter.data.clone()
    yield {name: parameter.data for name, parameter in tensors.items()}
    for name, parameter in tensors.items():
        parameter.data = kept[name]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("block_chunks.0.module.0.sa.mat_qkv.weight", torch.nan, "logits"),
        ("head.bias", torch.inf, "logits"),
        ("decoder.conv_out.conv.weight", torch.nan, "pixels"),
        ("decoder.conv_out.conv.bias", torch.inf, "pixels"),
    ],
)
def test_a_picture_of_such_numbers_is_an_error(
    pipeline: Pipeline, one_number: dict[str, Tensor], name: str, value: float, words: str
) -> None:
    one_number[name].view(-1)[3 % one_number[name].numel()] = value
    with pytest.raises(NotFinite, match=rf"the {words} of 'a red apple' are not finite"):
        next(generate(pipeline, Request(("a red apple",))))


def test_the_sampler_knows_which_pictures_are_sound_and_reads_nothing_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = torch.zeros(2, 4, 3, 2)
    sampler = BitSampler([0, 1], 0.97)
    with monkeypatch.context() as patch:  # on a GPU any of these would wait for it
        for name in ("__bool__", "item", "tolist", "cpu"):
            patch.setattr(Tensor, name, lambda *_: pytest.fail("waits for the device"))
        sampler(0, logits)
        logits[1, 2, 0, 1] = torch.nan
        sampler(1, logits)
        sampler(2, torch.zeros(2, 4, 3, 2))
    assert sampler.finite is not None
    assert sampler.finite.tolist() == [True, False]


def test_numbers_that_do_not_fit_the_asked_precision_are_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUILT_IN / "emoji", tmp_path / "emoji"))
    tensors = {n: t.float() for n, t in load_file(folder / "transformer.safetensors").items()}
    name = "block_chunks.0.module.0.ffn.fc2.weight"
    tensors[name].view(-1)[3] = 1e5
    save_file(tensors, folder / "transformer.safetensors")
    with pytest.raises(UserError, match=f"{name} has numbers that do not fit fp16"):
        load("emoji", device="cpu", dtype="fp16", weights_dir=folder)
