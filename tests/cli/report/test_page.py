"""The report's page in a real browser: nothing from the network, no complaint on the console, fits
a phone and a wide screen, every chart named, described and with units; usable by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from selenium.webdriver.common.keys import Keys

from scalekv.cli.pictures.folder import OutputFolder
from scalekv.cli.pictures.writing import FORMAT
from scalekv.cli.report.charts import Series, heat_map, stacked_bars
from scalekv.cli.report.figures import memory_report
from scalekv.cli.report.page import render
from scalekv.configs.models import model_named
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import settle
from scalekv.kv.memory.ledger import CacheLedger, LayerRecord
from scalekv.kv.memory.predicted import CacheShape
from tests.cli.browser import Browser, chromium

PROMPT = 'an "owl" & a fox in a very long sentence about nothing in particular at all'
SVG = "{http://www.w3.org/2000/svg}"


def ledger(policy: str = "scalekv") -> dict[str, Any]:
    """What the caches of a megapixel picture of the 2B model hold, as its budget has it."""
    preset = model_named("infinity-2b")
    request = Request((PROMPT,), policy=policy, budget="paper-10")
    settled = settle(request, preset, "cuda", "bf16")
    schedule, budget = settled.schedule, None if policy == "full" else settled.asked
    spec = preset.transformer
    shape = CacheShape(spec.depth, 2, spec.heads, spec.head_dim, 2, 2)
    result = CacheLedger(schedule, shape, policy, budget)
    for scale in range(len(schedule)):
        for layer in range(spec.depth):
            tokens = schedule.before(scale)
            if budget is not None:
                tokens = budget.capacity(scale, layer)
            held = tokens * shape.bytes_per_token
            result.record(scale, layer, LayerRecord(tokens, tokens, tokens, tokens, held, 0))
    result.record_held(650 * spec.depth * shape.bytes_per_token, 4_000_000)
    result.record_transient(2, 200_000_000)
    return result.to_dict()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a picture, its twin, every chart and every table."""
    folder = tmp_path_factory.mktemp("run")
    output = OutputFolder(folder)
    names = []
    for number, policy in enumerate(("scalekv", "full", "scalekv")):
        image = Image.effect_mandelbrot((1024, 1024), (-2.2, -1.4, 0.8, 1.4), 60).convert("RGB")
        settings = {"prompt": PROMPT, "seed": number // 2, "model": "m", "policy": policy}
        sidecar = {"settings": settings, "seconds": 1.5, "cache": ledger(policy)}
        path, beside = output.save_picture(image, PROMPT, number // 2, settings, sidecar)
        names.append((path.name, beside.name))
    gib = 2**30
    report = {
        "format": FORMAT,
        "version": "0",
        "outcome": "interrupted",
        "model": {"name": "infinity-2b", "chosen_by": "--model"},
        "device": "cuda",
        "dtype": "bfloat16",
        "started": "2026-01-01T00:00:00+00:00",
        "machine": {"processor": "x", "cores": 8, "memory_bytes": 64 * gib},
        "settings": {"cfg": [3.0] * 13, "versions": {"torch": "2"}, "schedule": "1x1 2x2 " * 9},
        "pictures_wanted": 4,
        "pictures": [
            {"file": file, "sidecar": beside, "prompt": PROMPT, "seed": seed, "seconds": 1.5}
            for seed, (file, beside) in ((0, names[0]), (1, names[2]))
        ],
        "seconds": {"load": 3.0, "all": 9.0},
        **memory_report(
            ledger(),
            {"transformer": 4 * gib, "vae": gib // 2, "text_encoder": 2 * gib},
            {
                name: {"allocated_peak_bytes": peak * gib, "reserved_peak_bytes": peak * gib}
                for name, peak in (("load", 7), ("encode", 7), ("scales", 9), ("decode", 8))
            },
            {
                name: {"transformer": 4 * gib, "vae": gib // 2, "text_encoder": 2 * gib}
                for name in ("load", "encode", "scales", "decode")
            },
            ["device: counters"],
        ),
    }
    return output.save_page(render(report, folder))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1400])
def test_it_shows_whole_without_network_or_complaint(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    browser.open(page, width, dark=dark)
    assert browser.messages() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert browser.run(broken) == 0
    beyond = """[...document.querySelectorAll('main *')].filter(e =>
        !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 1
    ).map(e => e.tagName)"""
    assert browser.run(beyond) == []
    paper = browser.run("getComputedStyle(document.documentElement).backgroundColor")
    ink = browser.run("getComputedStyle(document.querySelector('svg text')).fill")
    assert (brightness(paper) < 0.3) is dark
    assert (brightness(ink) < 0.6) is not dark
    least = """Math.min(...[...document.querySelectorAll('figure svg text')].map(
        e => e.getBoundingClientRect().height))"""
    assert browser.run(least) >= 9, "text of the charts can be read"


def brightness(colour: str) -> float:
    red, green, blue = (int(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3])
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def test_charts_have_titles_units_and_texts(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    charts = browser.run(
        """[...document.querySelectorAll('figure > svg')].map(svg => ({
            role: svg.getAttribute('role'),
            named: svg.getAttribute('aria-labelledby').split(' ').map(
                id => document.getElementById(id).textContent),
            heading: svg.closest('figure').querySelector('h3').textContent,
            drawn: [...svg.querySelectorAll('text')].map(text => text.textContent),
            rows: svg.closest('figure').querySelectorAll('tbody tr').length,
        }))"""
    )
    assert len(charts) == 6
    units = {"GiB", "MiB", "KiB", "tokens per head"}
    for chart in charts:
        title, text = chart["named"]
        assert chart["role"] == "img"
        assert title == chart["heading"]
        assert len(text) > 40
        assert any(unit in title for unit in units), title
        assert units & set(chart["drawn"]), (title, chart["drawn"])
        assert chart["rows"] >= 4, title
    ids = browser.run("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    for image in browser.run("[...document.images].map(i => i.alt)"):
        assert PROMPT in image
    says = browser.run(
        "[...document.querySelectorAll('#layers svg title')].map(t => t.textContent)"
    )
    assert "scale 13, layer 0: 6385 tokens per head" in says


def test_it_is_usable_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page, 360)
    body = browser.driver.find_element("tag name", "body")
    seen: list[str] = []
    for _ in range(60):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        seen.append(
            browser.run(
                "(document.activeElement.textContent || document.activeElement.ariaLabel).trim()"
            )
        )
        active = browser.driver.switch_to.active_element
        if active.tag_name == "summary" and not browser.run("!!document.querySelector('[open]')"):
            active.send_keys(Keys.ENTER)
        if active == body:
            break
    assert seen[0] == "To the figures"
    assert {"Pictures", "Memory", "Layers", "Lower bound", "The same as a table"} <= set(seen)
    assert browser.run("!!document.querySelector('details[open]')"), "a table opened"
    scrolled = browser.run("[...document.querySelectorAll('details[open] .scroll')].length")
    assert scrolled == 1


def test_twins_stand_beside_their_pictures(page: Path) -> None:
    text = page.read_text()
    assert text.count("<img ") == 3
    assert text.count("full cache<br>") == 1
    assert text.count("data:image/webp;base64,") == 3, "a megapixel is put in smaller"
    assert "2 of 4 pictures are there" in text


def test_a_chart_says_every_value() -> None:
    bars = stacked_bars(
        "b", "Bytes, MiB", "words", ["1", "2"], [Series("held", "#112233", [1.5, 2.0])], "MiB"
    )
    root = ElementTree.fromstring(bars.svg)
    assert [root[0].tag, root[1].tag] == [f"{SVG}title", f"{SVG}desc"]
    says = [title.text for title in root.iter(f"{SVG}title")]
    assert says == ["Bytes, MiB", "scale 1, held: 1.5 MiB", "scale 2, held: 2 MiB"]
    cells = heat_map("h", "Tokens", "words", ["1"], [[3.0], [4.0]], "tokens", 4)
    says = [title.text for title in ElementTree.fromstring(cells.svg).iter(f"{SVG}title")]
    assert says[1:] == ["scale 1, layer 0: 3 tokens", "scale 1, layer 1: 4 tokens"]


def test_an_equal_chart_is_equal_to_the_byte() -> None:
    result = [heat_map("h", "T", "t", ["1"], [[3.0]], "tokens", 4).svg for _ in range(2)]
    assert result[0] == result[1]
