"""docs/budgets.md: its figures are right, its files are read, its code says what it says."""

from __future__ import annotations

import re
from math import isclose
from pathlib import Path

import pytest

from scalekv.configs.budget_files import _KEYS, load_budget
from scalekv.configs.models import model_named
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.budgets.asked import parse_budget, resolve
from scalekv.kv.budgets.heat_order import drops
from scalekv.kv.budgets.moments import within
from scalekv.kv.memory.predicted import CacheShape

PAGE = (Path(__file__).parents[1] / "docs" / "budgets.md").read_text(encoding="utf-8")
SQUARE = schedule_for("1:1", "1M")
YAML = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose first heading this is."""
    lines = PAGE.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows


def test_every_way_to_ask_is_read() -> None:
    for asked, _ in table("`--budget`, or `patched(model, budget=…)`"):
        assert parse_budget(asked).label == asked
    for text in ("12.5%", "infinity-2b/paper-10"):
        assert f"`{text}`" in PAGE
    assert load_budget("infinity-2b/paper-10").mean == 650


def test_the_sizes() -> None:
    rows = table("pixels, 1:1")
    assert [row[0] for row in rows] == ["0.06M", "0.25M", "0.60M", "1M"]
    for pixels, scales, history, total, tenth in rows:
        schedule = schedule_for("1:1", pixels)
        facts = (len(schedule), schedule.history, schedule.total)
        assert (int(scales), int(history), int(total)) == facts
        assert resolve(parse_budget("10%"), schedule, 8).mean == int(tenth)


def test_what_bytes_buy() -> None:
    spec = model_named("infinity-2b").transformer
    one, eight = (
        CacheShape(spec.depth, 2 * pictures, spec.heads, spec.head_dim, 2, 2) for pictures in (1, 8)
    )
    assert one.bytes_of(1) == 512 * 1024
    rows = table("infinity-2b, 1M, bf16")
    assert len(rows) == 3
    for asked, alone, together in rows:
        for shape, words in ((one, alone), (eight, together)):
            budget = resolve(parse_budget(asked), SQUARE, spec.depth, bytes_of=shape.bytes_of)
            assert f"{budget.mean} tokens" == words


def test_the_released_table_and_what_is_used_of_it() -> None:
    planned = resolve(load_budget("paper-10", "infinity-2b"), SQUARE, 32)
    used = within(planned)
    by_scale, means = _tables_of_scales()
    numbers = ["9", "10", "11", "12", "13"]
    assert [row[0] for row in by_scale] == [row[0] for row in means] == numbers
    for number, drafters, each, others in by_scale:
        row = planned.capacities[int(number) - 1]
        layers = [int(layer) for layer in drafters.split(", ")]
        assert {row[layer] for layer in layers} == {int(each)}
        assert {row[layer] for layer in range(32) if layer not in layers} == {int(others)}
    for number, plan, use, _ in means:
        assert sum(planned.capacities[int(number) - 1]) == int(plan) * 32
        held = sum(used.held_tokens(int(number) - 1, layer) for layer in range(32)) / 32
        assert f"{held:.1f}" == use


def _tables_of_scales() -> list[list[list[str]]]:
    found = re.findall(r"^\| scale \|.*\n\|[ |-]+\n((?:\|.*\n)+)", PAGE, re.M)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
        for text in found
    ]


@pytest.mark.parametrize("text", YAML, ids=["mean", "percent", "linear", "capacities"])
def test_every_file_is_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    spec = load_budget(path)
    preset = model_named(spec.model)
    assert spec.layers == preset.transformer.depth
    budget = resolve(spec, spec.schedule or schedule_for("1:1", preset.pixels), spec.layers)
    assert budget.evicts
    if spec.linear is not None:
        assert [budget.capacities[scale][1] for scale in (9, 10, 11)] == [594, 526, 419]


def test_every_key_is_explained() -> None:
    named = [key for row in table("key") for key in re.findall(r"[a-z_]+", row[0])]
    assert sorted(named) == sorted(_KEYS)


def test_heatkv_protects_what_the_page_says() -> None:
    assert SQUARE.before(3) == 21
    assert drops(SQUARE, 16 * 32, 642)[-1] == -(-16 * 32 * (6425 - 642) // (6425 - 21))


def test_the_code_says_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    assert len(code) == 1
    exec(compile(code[0], "docs/budgets.md", "exec"), {})
    output = capsys.readouterr().out.split()
    comments = re.findall(r"print\(.*#\s*([\d. ]+)", code[0])
    shown = " ".join(comments).split()
    assert len(output) == len(shown) == 3
    assert all(isclose(float(a), float(b)) for a, b in zip(output, shown, strict=True))
