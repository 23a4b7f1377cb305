"""Matrices that are not like their siblings are named, and those of the shipped model are fine."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.planning.health import Level
from scalekv.infinity_patch.selftest.matrices import (
    examine_matrices,
    look_trained,
    matrix_statistics,
)
from tests.infinity_patch.small import small_model

FOLDER = BUILT_IN / "emoji"


def named(path: Path) -> dict[str, str]:
    """What the problems of a file are, by name of the matrix."""
    found = examine_matrices("transformer", matrix_statistics(path))
    return {
        one.name.removeprefix("transformer, "): one.found
        for one in found
        if one.level is Level.PROBLEM
    }


def test_the_shipped_weights_are_fine() -> None:
    for name in ("vae.safetensors", "text_encoder/model.safetensors"):
        assert not named(FOLDER / name)
    statistics = matrix_statistics(FOLDER / "transformer.safetensors")
    (finding,) = examine_matrices("transformer", statistics)
    assert finding.level is Level.FINE
    assert "62 of 64 square ones" in finding.found
    assert look_trained(statistics)


def test_planted_faults_are_named_and_nothing_else(tmp_path: Path) -> None:
    """One of each kind, in blocks of their own: what one does to its siblings is no fault."""
    state: dict[str, Tensor] = load_file(FOLDER / "transformer.safetensors")
    blocks = [f"block_chunks.{i}.module.{j}." for i in range(4) for j in range(2)]
    transposed = [blocks[5] + "ca.mat_q.weight", blocks[2] + "sa.proj.weight"]
    for name in transposed:
        state[name] = state[name].T.contiguous()
    scaled, shrunk = blocks[3] + "ffn.fc2.weight", blocks[6] + "ca.proj.weight"
    state[scaled] = state[scaled] * 12
    state[shrunk] = state[shrunk] / 448  # as of scaled fp8 numbers whose factor got lost
    values = blocks[4] + "sa.mat_qkv.weight"
    state[values][512:] *= 16  # the values' third alone
    broken, same = blocks[0] + "ffn.fc1.weight", blocks[7] + "ffn.fc1.weight"
    state[broken][3, 5] = torch.nan
    state[same] = torch.full_like(state[same], 0.5)
    path = tmp_path / "planted.safetensors"
    save_file(state, path)
    found = named(path)
    assert found.keys() == {*transposed, scaled, shrunk, f"{values} v", broken, same}
    assert all("is transposed" in found[name] for name in transposed)
    assert "times larger" in found[scaled]
    assert "times smaller" in found[shrunk]
    assert "times larger" in found[f"{values} v"]
    assert "not finite" in found[broken]
    assert "the same number" in found[same]


def test_a_whole_kind_in_another_scale(tmp_path: Path) -> None:
    state: dict[str, Tensor] = load_file(FOLDER / "transformer.safetensors")
    kind = "sa.proj.weight"
    for name in [name for name in state if name.endswith(kind)]:
        state[name] = state[name] * 256
    save_file(state, tmp_path / "scaled.safetensors")
    found = named(tmp_path / "scaled.safetensors")
    assert len(found) == 8
    assert all(name.endswith(kind) and "wrong scale" in words for name, words in found.items())


def test_chance_numbers_do_not_look_trained(tmp_path: Path) -> None:
    save_file(small_model().state_dict(), tmp_path / "filled.safetensors")
    statistics = matrix_statistics(tmp_path / "filled.safetensors")
    assert not look_trained(statistics)
    (note, _) = examine_matrices("transformer", statistics)
    assert note.level is Level.NOTE
    assert "chance numbers" in note.found
