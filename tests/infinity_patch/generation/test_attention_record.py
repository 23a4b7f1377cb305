"""What is recorded of attention is what attention had, and gives back what it gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from scalekv.configs.recorded import AttentionChoice
from scalekv.infinity_patch import Pipeline, Request, generate, load
from scalekv.infinity_patch.files import disk
from scalekv.infinity_patch.generation.attention_record import AttentionRecorder, recorded_bytes
from scalekv.infinity_patch.generation.pipeline import settled_on
from scalekv.infinity_patch.model.attention import attend as attend_all
from scalekv.kv.errors import UserError

LAYERS, SCALES = (0, 5), (4, 6)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load("emoji", dtype="fp32", device="cpu")


def recorded(
    pipeline: Pipeline, folder: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Tensors of a file, what attention gave at the same places, and the most the file may take."""
    settled = settled_on(
        pipeline, Request("a fox", policy=policy, budget=None if policy == "full" else "10%")
    )
    choice = AttentionChoice(LAYERS, SCALES)
    recorder = AttentionRecorder(choice, settled, folder)
    answers: list[Tensor] = []
    inner = attend_all

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        answers.append(inner(q, k, v))
        return answers[-1].clone()

    monkeypatch.setattr("scalekv.infinity_patch.generation.patch.attend", attend)
    list(generate(pipeline, settled, on_caches=recorder.begin))
    path, facts = recorder.finish()
    depth = pipeline.preset.transformer.depth
    given = {f"scale{s + 1}.layer{n}": answers[s * depth + n] for s in SCALES for n in LAYERS}
    assert facts == {"layers": [0, 5], "scales": [5, 7], "bytes": path.stat().st_size}
    return load_file(path), given, recorded_bytes(choice, settled)


@pytest.mark.parametrize("policy", ["full", "scalekv", "coded"])
def test_recorded_tensors_give_the_attention(
    pipeline: Pipeline, tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, given, most = recorded(pipeline, tmp_path, policy, monkeypatch)
    assert len(found) == 5 * len(given)
    assert sum(tensor.nbytes for tensor in found.values()) <= most
    for place, answer in given.items():
        q, k, v, attention, positions = (
            found[f"{place}.{kind}"] for kind in ("q", "k", "v", "attention", "positions")
        )
        weights = (q @ k.mT).softmax(-1)
        torch.testing.assert_close(weights @ v, answer, atol=1e-5, rtol=0)
        torch.testing.assert_close(weights.sum(2), attention, atol=1e-3, rtol=0)
        assert positions.shape == k.shape[:3]
        assert (positions.diff(dim=-1) > 0).all()


def test_positions_say_which_tokens_were_kept(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything was dropped both drew the same tokens, whose keys the fifth scale reads."""
    full, _, _ = recorded(pipeline, tmp_path, "full", monkeypatch)
    kept, _, _ = recorded(pipeline, tmp_path, "scalekv", monkeypatch)
    positions = kept["scale5.layer0.positions"].long()
    whole = full["scale5.layer0.k"]
    assert positions.shape[-1] < whole.shape[2]
    index = positions.unsqueeze(-1).expand(*positions.shape, whole.shape[-1])
    torch.testing.assert_close(whole.gather(2, index), kept["scale5.layer0.k"], atol=1e-6, rtol=0)


def test_every_picture_has_a_file_and_none_is_left(pipeline: Pipeline, tmp_path: Path) -> None:
    settled = settled_on(pipeline, Request("a fox", num_images=2))
    recorder = AttentionRecorder(AttentionChoice((0,), (0,)), settled, tmp_path)
    files: set[Path] = set()
    for _ in generate(pipeline, settled, on_caches=recorder.begin):
        files.add(recorder.finish()[0])
    assert files == set(tmp_path.iterdir())
    assert len(files) == 2
    caches: Any = type("Caches", (), {"observer": None})()
    recorder.begin(0, caches)
    assert len(list(tmp_path.iterdir())) == 3
    recorder.discard()
    assert files == set(tmp_path.iterdir())


def test_refusals(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled = settled_on(pipeline, Request("a fox"))
    with pytest.raises(UserError, match="no layer 8"):
        AttentionRecorder(AttentionChoice(layers=(8,)), settled, tmp_path)
    by_head = settled_on(pipeline, Request("a fox", policy="heatkv"))
    with pytest.raises(UserError, match="unequally many tokens"):
        AttentionRecorder(AttentionChoice(), by_head, tmp_path)
    monkeypatch.setattr(disk, "free_disk", lambda _: 1 << 20)
    with pytest.raises(UserError, match="does not fit"):
        AttentionRecorder(AttentionChoice(), settled, tmp_path)
    assert not list(tmp_path.iterdir())
