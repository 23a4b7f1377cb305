"""Learning rates that end when they are told to, and shipping of single parts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from scalekv.configs.models import model_named, read_preset
from scripts.builtin.ship import PARTS, ship
from scripts.builtin.training import held_rate

PRESET = Path(__file__).parents[2] / "scripts" / "builtin" / "emoji-192.yaml"


def test_the_rate_rises_holds_and_falls() -> None:
    rates = [held_rate(step, 100, 2.0, 10, 20) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9:81] == pytest.approx([2.0] * 72)
    assert rates[90] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(rates[80:]))


def test_an_end_given_later_changes_nothing_before_its_cooldown() -> None:
    open_ended = [held_rate(step, 10_000, 1.0, 10, 20) for step in range(50)]
    assert [held_rate(step, 70, 1.0, 10, 20) for step in range(50)] == open_ended


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    for source in PARTS.values():
        path = tmp_path / "data" / source
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"new {path.name}")
    return tmp_path / "data"


def test_one_part_is_shipped_and_the_others_stay(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "weights"
    whole = ship(trained, target, list(PARTS))
    assert whole == sum(path.stat().st_size for path in map(target.joinpath, PARTS))
    (trained / PARTS["vae.safetensors"]).write_text("newer vae")
    (trained / PARTS["transformer.safetensors"]).write_text("half trained")
    ship(trained, target, ["vae.safetensors"])
    assert (target / "vae.safetensors").read_text() == "newer vae"
    assert (target / "transformer.safetensors").read_text() == "new transformer.safetensors"


def test_too_much_is_not_shipped(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.builtin.ship.MOST_BYTES", 10)
    with pytest.raises(AssertionError, match="at most 10"):
        ship(trained, tmp_path / "weights", list(PARTS))
    assert not (tmp_path / "weights").exists()


def test_the_second_model_stands_behind_the_packages_tokenizer_and_text_encoder() -> None:
    second, shipped = read_preset(PRESET), model_named("emoji")
    assert (second.tokenizer, second.text) == (shipped.tokenizer, shipped.text)
    assert second.transformer.text_width == shipped.transformer.text_width
    assert (second.transformer.depth, second.transformer.heads, second.transformer.width) == (
        6, 4, 192,
    )  # fmt: skip
