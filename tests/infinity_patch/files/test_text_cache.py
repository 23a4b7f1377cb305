"""Features of prompts in a folder: the same bits, whole files, and what is damaged is made anew."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from scalekv.configs.models import model_named
from scalekv.infinity_patch import Request, generate, load
from scalekv.infinity_patch.files.text_cache import FEATURES, FORMAT, TextCache
from scalekv.infinity_patch.files.text_entries import TextEntries, text_entries
from scalekv.infinity_patch.loading.loader import texts_at_hand
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.kv.errors import UserError

ROWS = torch.arange(12, dtype=torch.float32).view(3, 4)
SHAPE = (3, 4)


def cache_in(folder: Path, **facts: str) -> TextCache:
    return TextCache.at(folder, lambda: {"format": FORMAT, "encoder": "e", **facts})


def one_file(folder: Path) -> Path:
    (path,) = (path for path in folder.rglob("*") if path.is_file())
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_kept_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    folder, rows = tmp_path / "a" / "b", ROWS.to(dtype)
    cache = cache_in(folder)
    assert cache.get("an owl", SHAPE, dtype) is None
    assert not cache.has("an owl")
    cache.put("an owl", rows)
    again = cache_in(folder)
    found = again.get("an owl", SHAPE, dtype)
    assert found is not None
    assert torch.equal(found, rows)
    assert again.has("an owl")
    assert (again.to_dict(), cache.to_dict()) == ({"found": 1, "made": 0}, {"found": 0, "made": 1})
    assert again.get("an owl ", SHAPE, dtype) is None
    assert cache_in(folder, dtype="bf16").get("an owl", SHAPE, dtype) is None
    path = one_file(folder)
    (folder / "ab").mkdir()
    (folder / "ab" / "mine.safetensors").write_bytes(b"no entry")
    assert text_entries(folder) == TextEntries(1, path.stat().st_size)
    assert text_entries(tmp_path / "none") == TextEntries(0, 0)
    with safe_open(path, framework="pt") as file:
        assert "an owl" not in str(file.metadata()), "prompts are nobody else's business"


def test_files_are_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        cache_in(tmp_path).put("an owl", ROWS)
    finally:
        os.umask(before)
    assert one_file(tmp_path).stat().st_mode & 0o777 == 0o640


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(1 << 20))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    path.write_bytes(save({FEATURES: ROWS}))


def of_another_prompt(path: Path) -> None:
    other = path.parent / "other"
    cache_in(other).put("a fox", ROWS)
    one_file(other).replace(path)


@pytest.mark.parametrize("damage", [cut, flip, grow, empty, foreign, of_another_prompt])
def test_damage_is_named_and_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    cache = cache_in(tmp_path)
    cache.put("an owl", ROWS)
    path = one_file(tmp_path)
    damage(path)
    with caplog.at_level(logging.WARNING, "scalekv"):
        assert cache.get("an owl", SHAPE, torch.float32) is None
    assert str(path) in caplog.text
    cache.put("an owl", ROWS)
    found = cache.get("an owl", SHAPE, torch.float32)
    assert found is not None
    assert torch.equal(found, ROWS)


def test_another_shape_is_damage(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    cache.put("an owl", ROWS)
    assert cache.get("an owl", (4, 3), torch.float32) is None
    assert cache.get("an owl", SHAPE, torch.bfloat16) is None


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(UserError, match="the text cache cannot be made"):
        cache_in(tmp_path / "f")
    placement = Placement(text_cache=tmp_path / "f" / "g")
    with pytest.raises(UserError, match="the text cache cannot be made"):
        load("emoji", device="cpu", placement=placement)


def test_a_folder_that_cannot_be_written_to_costs_nothing_but_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    cache = cache_in(tmp_path)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "scalekv"):
        patch.setattr(Path, "write_bytes", full)
        cache.put("an owl", ROWS)
        cache.put("a fox", ROWS)
    assert caplog.text.count("cannot be written to: [Errno 28] No space") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_pictures_are_the_same_and_the_encoder_stays_unread(tmp_path: Path) -> None:
    request = Request(("a red apple", "a woman"), negative="blur", positive_prompt=True, seed=3)
    plain = [p.image.tobytes() for p in generate(load("emoji", device="cpu"), request)]
    placement = Placement(text_cache=tmp_path, keep_text_encoder=False)

    def at_hand(texts: list[str]) -> bool:
        emoji = model_named("emoji")
        return texts_at_hand(emoji, texts, device="cpu", weights_dir=None, placement=placement)

    assert not at_hand(request.texts)
    for made in (True, False):
        pipeline = load("emoji", device="cpu", placement=placement)
        assert pipeline.weights_bytes["text_encoder"] == 0
        assert [p.image.tobytes() for p in generate(pipeline, request)] == plain
        assert pipeline.text.was_read is made
        assert (pipeline.weights_bytes["text_encoder"] > 0) is made
        assert pipeline.text.cache is not None
        counts = {"found": 0, "made": 3} if made else {"found": 3, "made": 0}
        assert pipeline.text.cache.to_dict() == counts
        assert (pipeline.stages.weights()["encode"]["text_encoder"] > 0) is made
    assert at_hand(request.texts)
    assert not at_hand([*request.texts, "a fox"])
    threads = replace(placement, threads=torch.get_num_threads() + 1)
    assert not texts_at_hand(
        *(model_named("emoji"), request.texts), device="cpu", weights_dir=None, placement=threads
    ), "sums may be others with other threads"


def test_texts_at_hand_import_neither_transformers_nor_the_compiler(tmp_path: Path) -> None:
    placement = Placement(text_cache=tmp_path)
    next(generate(load("emoji", device="cpu", placement=placement), "an owl"))
    lines = (
        "import sys",
        "from pathlib import Path",
        "from scalekv.infinity_patch import generate, load",
        "from scalekv.infinity_patch.loading.placement import Placement",
        f"cache = Placement(text_cache=Path({str(tmp_path)!r}))",
        "next(generate(load('emoji', device='cpu', placement=cache), 'an owl'))",
        "sys.exit(' '.join({'transformers', 'torch._dynamo', 'sympy'} & set(sys.modules)) or 0)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
