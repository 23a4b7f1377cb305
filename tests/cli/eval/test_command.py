"""`scalekv eval` on the built-in model: what it measures and keeps, and how it goes on."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from PIL import Image
from torchmetrics.image import PeakSignalNoiseRatio

from scalekv.cli import engine
from scalekv.cli.choices import FULL, Options, choose
from scalekv.cli.eval.asked import settle_variants
from scalekv.infinity_patch.evaluation import networks, run
from scalekv.infinity_patch.evaluation.drawing import draw_with_bits
from scalekv.infinity_patch.evaluation.variants import FULL_CACHE, CacheVariant
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.kv.dtypes import DTYPE_NAMES
from tests.cli.conftest import Outcome
from tests.cli.eval.conftest import CAPTIONS, ask

ROOT = Path(__file__).parents[3]
SAME = ("result.json", "report.md", "table.tex", "plot.png")
Whole = tuple[Path, Outcome]


def result_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return found


def variant(out: Path, policy: str, budget: str) -> dict[str, Any]:
    (found,) = (
        facts
        for facts in result_of(out)["variants"]
        if (facts["policy"], facts["budget"]) == (policy, budget)
    )
    return dict(found)


def pixels(path: Path) -> torch.Tensor:
    """(1, 3, H, W) float64 in 0 to 1."""
    array = np.array(Image.open(path), dtype=np.float64) / 255
    return torch.from_numpy(array).permute(2, 0, 1)[None]


def test_it_prints_its_table(whole: Whole) -> None:
    out, ended = whole
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0].startswith("Protocol scalekv: model emoji")
    assert "seeds from 0" in lines[0]
    (less,) = (line for line in lines if line.startswith("scalekv  10%"))
    assert f"{variant(out, 'scalekv', '10%')['psnr']['mean']:.2f} (" in less
    assert any(line.startswith("arXiv 2505.19602") and "22.64" in line for line in lines)
    assert any(line.startswith("- Model: emoji here, infinity-2b there") for line in lines)
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "table.tex").read_text().startswith("\\begin{tabular}{lll")


def test_psnr_is_torchmetrics_own_of_the_kept_pictures(whole: Whole) -> None:
    out, _ = whole
    metric = PeakSignalNoiseRatio(data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3))
    metric.set_dtype(torch.float64)
    for budget, folder in (("20%", "scalekv-20pct"), ("10%", "scalekv-10pct")):
        pairs = [
            [pixels(out / "pictures" / place / f"{number:05d}.png") for place in (folder, "full")]
            for number in range(len(CAPTIONS))
        ]
        theirs = metric(*(torch.cat(side) for side in zip(*pairs, strict=True)))
        assert variant(out, "scalekv", budget)["psnr"]["mean"] == pytest.approx(
            float(theirs), abs=1e-6
        )


def test_less_cache_is_further_off_and_holds_less(whole: Whole) -> None:
    out, _ = whole
    full, more, less = (
        variant(out, *name) for name in (("full", "full"), ("scalekv", "20%"), ("scalekv", "10%"))
    )
    assert full["share_of_history"] == 1.0
    assert full["share_of_all_scales"] == pytest.approx(265 / 521)
    assert full["held_peak_bytes"] > more["held_peak_bytes"] > less["held_peak_bytes"]
    assert less["share_of_history"] <= 0.1
    for name, sign in (("psnr", 1), ("ssim", 1), ("features", -1), ("bits", 1), ("forced", 1)):
        assert sign * more[name]["mean"] > sign * less[name]["mean"], name
        assert less[name]["low"] <= less[name]["mean"] <= less[name]["high"]
    assert less["bits"]["by_scale"][0]["mean"] == 1.0 > less["bits"]["by_scale"][-1]["mean"] > 0.5


def test_the_result_is_of_the_schema(whole: Whole) -> None:
    out, _ = whole
    schema = json.loads((ROOT / "results" / "schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(result_of(out))
    text = (out / "result.json").read_text(encoding="utf-8")
    assert str(out.parent) not in text


def test_what_was_not_taken_is_said_and_never_zero(whole: Whole) -> None:
    out, ended = whole
    left = result_of(out)["left_out"]
    for name in ("lpips", "fid"):
        if networks.NETWORKS[name].missing:
            assert "torchvision" in left[name]
            assert name not in variant(out, "scalekv", "10%")
            assert f"Left out: {networks.NETWORKS[name].title}: not installed" in ended.out


def interrupted_at(count: int) -> Callable[..., Any]:
    """What draws, until Ctrl-C comes before the picture of that number."""
    seen: Iterator[int] = iter(range(count))

    def drawing(*given: Any) -> Any:
        if next(seen, None) is None:
            raise KeyboardInterrupt
        return draw_with_bits(*given)

    return drawing


def test_stopped_parts_that_go_on_come_to_the_same_bytes(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, ended = whole
    out = tmp_path / "run"
    with monkeypatch.context() as during:
        during.setattr(run, "draw_with_bits", interrupted_at(2))
        stopped = ask(out, "--shard", "1/2")
    assert stopped.code == 130
    assert "2 pictures kept" in stopped.err
    rows = out / "pictures-1of2.jsonl"
    rows.write_bytes(rows.read_bytes()[:-9])  # a kill in the middle of a line
    for shard in ("1/2", "2/2"):
        assert ask(out, "--shard", shard, "--agreement").code == 0
    assert sorted(path.name for path in out.glob("pictures*.jsonl")) == [
        "pictures-1of2.jsonl",
        "pictures-2of2.jsonl",
    ]
    again = ask(out, "--agreement")
    assert again.out == ended.out
    for name in SAME:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def never(*given: Any) -> Any:
    raise AssertionError("loaded or drew what is there already")


def test_what_is_there_is_neither_drawn_nor_loaded_again(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, ended = whole
    monkeypatch.setattr("scalekv.cli.engine.load", never)
    assert ask(out, "--agreement").out == ended.out
    assert ask(out, "--report-only").out == ended.out
    told = json.loads(ask(out, "--report-only", "--json").out)
    assert told == result_of(out)


def test_another_policy_is_added_without_drawing_the_full_cache_again(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, _ = whole
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    drawn: list[str] = []

    def counting(pipeline: Any, settled: Any) -> Any:
        drawn.append(settled.request.policy)
        return draw_with_bits(pipeline, settled)

    monkeypatch.setattr(run, "draw_with_bits", counting)
    more = ("--policy", "full", "--kv-dtype", "int8", "--limit", "1", "--measure", "none")
    assert ask(out, *more).code == 0
    assert drawn == ["full"]  # in eight bits; what it is compared with was kept
    (held,) = (facts for facts in result_of(out)["variants"] if facts["stored_as"] == "int8")
    assert held["pictures"] == 1
    assert held["held_peak_bytes"] < variant(finished, "full", "full")["held_peak_bytes"]
    bits = (out / "pictures" / "full" / "00000.npz", out / "pictures" / "scalekv-10pct")
    assert bits[0].is_file()
    assert not list(bits[1].glob("*.npz"))


def test_lpips_and_fid_come_into_the_table_by_networks_that_stand_in(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, _ = whole
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    module = ModuleType("cleanfid.fid")
    module.compute_fid = lambda full, other, **how: float(len(Path(other).name))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cleanfid", ModuleType("cleanfid"))
    monkeypatch.setitem(sys.modules, "cleanfid.fid", module)

    def stand_in() -> networks.Lpips:
        return networks.Lpips(lambda a, b: (a - b).abs().mean())

    changed = {
        "lpips": networks.Network("LPIPS", {}, stand_in),
        "fid": networks.Network("FID", {}, None),
    }
    monkeypatch.setattr(networks, "NETWORKS", networks.NETWORKS | changed)
    monkeypatch.setattr(run, "NETWORKS", networks.NETWORKS)
    ended = ask(out, "--measure", "lpips,fid")
    assert ended.code == 0, ended.err
    less = variant(out, "scalekv", "10%")
    assert 0 < less["lpips"]["mean"] < 1
    assert less["fid"] == {"value": len("scalekv-10pct")}
    assert "- FID: of 2 pictures here, of 5,000 there" in ended.out
    assert "Left out: LPIPS" not in ended.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "0%"], "0%"),
        (["--kv-dtype", "int7"], "int7"),
        (["--policy", "scalekw"], "scalekw"),
        (["--protocol", "scalkv"], "no protocol"),
        (["--measure", "lpipz"], "no measure"),
        (["--measure", "none,fid"], "none stands alone"),
        (["--limit", "0"], "--limit"),
        (["--shard", "3/2"], "no shard"),
        (["--model", "emojy"], "emojy"),
        (["--captions", "nowhere.txt"], "nowhere.txt"),
        (["--seed", "1,2"], "--seed"),
        (["--report-only"], "no measurements there"),
    ],
)
def test_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr("scalekv.cli.engine.load", never)
    ended = ask(tmp_path / "run", *arguments)
    assert ended.code == 2
    assert message in ended.err
    assert not (tmp_path / "run").exists()


def test_a_network_that_was_named_and_is_not_here_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = networks.Network("LPIPS", {"no_such_module": "no-such-package"}, None)
    monkeypatch.setattr(networks, "NETWORKS", networks.NETWORKS | {"lpips": nowhere})
    ended = ask(tmp_path / "run", "--measure", "lpips")
    assert ended.code == 2
    assert "pip install no-such-package" in ended.err


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("--seed", "5", "seed: 0"),
        ("--weights", "int8", "weights_dtype: {dtype}"),
        ("--text-dtype", "int8", "text_dtype: fp32"),
        ("--text-dtype", "bf16", "text_dtype: fp32"),
    ],
)
def test_other_settings_are_not_mixed_in(
    whole: Whole, option: str, value: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = whole
    monkeypatch.setattr("scalekv.cli.engine.load", never)
    ended = ask(out, option, value, "--budget", "5%")
    assert ended.code == 2
    dtype = result_of(out)["settings"]["dtype"]
    assert f"another {name.format(dtype=dtype)}, now {value}" in " ".join(ended.err.split())
    assert "name another --out" in ended.err


def test_a_folder_of_before_precisions_of_weights_were_recorded_goes_on(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, ended = whole
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    for path in out.glob("*.jsonl"):
        first, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
        settings = json.loads(first)["settings"]
        assert settings.pop("weights_dtype") == settings["dtype"]
        assert settings.pop("text_dtype") == "fp32"
        path.write_text("".join([json.dumps({"settings": settings}) + "\n", *rows]))
    monkeypatch.setattr("scalekv.cli.engine.load", never)
    assert ask(out, "--report-only").out == ended.out
    assert result_of(out)["settings"] == result_of(finished)["settings"]
    assert ask(out, "--agreement").out == ended.out


def test_settings_have_what_was_used_where_nobody_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []

    def load(*given: Any) -> Any:
        loaded.append(load_model(*given))
        return loaded[-1]

    load_model = engine.load
    monkeypatch.setattr(engine, "load", load)
    monkeypatch.setattr(
        "scalekv.cli.eval.asked.check_room",
        lambda _, __, place, *___, **____: replace(place, weights="int8"),
    )
    out = tmp_path / "run"
    ended = ask(out, "--policy", "full", "--limit", "1", "--measure", "none")
    assert ended.code == 0, ended.err
    (pipeline,) = loaded
    settings = result_of(out)["settings"]
    assert settings["weights_dtype"] == pipeline.weights == "int8"
    assert DTYPE_NAMES[pipeline.text.dtype] == settings["text_dtype"] == "fp32"
    assert "weights in int8, text encoder in fp32" in " ".join(ended.out.split())


def test_a_picture_that_is_gone_is_missed(whole: Whole, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    (out / "pictures" / "full" / "00000.png").unlink()
    ended = ask(out, "--policy", "h2o", "--limit", "1", "--measure", "none")
    assert ended.code == 2
    assert "a picture that was made is gone" in ended.err


def test_what_fits_is_what_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A placement that one cache fits with is what the next is asked about."""
    seen: list[str] = []

    def lighter(_settled: Any, _target: Any, placement: Placement, *_: Any, **__: Any) -> Placement:
        seen.append(placement.weights)
        return replace(placement, weights="int8")

    monkeypatch.setattr("scalekv.cli.eval.asked.check_room", lighter)
    choices = choose(Options((), {"policy": FULL, "budget": FULL}))
    small = CacheVariant("scalekv", "10%")
    found, settled = settle_variants(choices, (FULL_CACHE, small, FULL_CACHE), ("a", "b"))
    assert found.placement.weights == "int8"
    assert seen == [choices.placement.weights, "int8"]
    assert [len(one.request.prompts) for one in settled.values()] == [2, 1]
