"""A checkout of the published code in a process of its own, with the suite's stand-in for it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import torch

from scalekv.infinity_patch import Pipeline, load
from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.generation.forced import force_bits
from scalekv.infinity_patch.planning.health import Finding, Level
from scalekv.infinity_patch.selftest.official import apart, compare_with_official

ROOT = Path(__file__).parents[3]
PROGRAM = """
    import sys
    sys.path.insert(0, {root!r})
    import torch
    from scalekv.infinity_patch import Placement, load
    from tests.infinity_patch.official import OfficialInfinity

    def load_visual_tokenizer(args):
        assert (args.vae_type, args.apply_spatial_patchify) == (16, 0)
        return "vae"

    def load_transformer(vae, args):
        assert vae == "vae" and args.pn == "0.06M" and args.checkpoint_type == "torch"
        assert args.vae_path.endswith("vae.safetensors")
        print("what a checkout prints is nobody's business")
        dtype = "bf16" if args.bf16 else "fp32"
        no_text = Placement(text_first=True)  # the bits and features come from outside
        model = load("emoji", device="cpu", dtype=dtype, placement=no_text).model
        {fault}
        return OfficialInfinity(model)
"""


def checkout(folder: Path, fault: str = "") -> Path:
    """A clone's `tools.run_infinity`, around the stand-in with the built-in model's weights."""
    tools = folder / "tools"
    tools.mkdir()
    text = textwrap.dedent(PROGRAM).format(root=str(ROOT), fault=fault)
    (tools / "run_infinity.py").write_text(text)
    return folder


def compared(
    folder: Path, pipeline: Pipeline, settled: Settled
) -> tuple[dict[str, object], list[Finding]]:
    prompt = settled.request.prompts[0]
    bits = [force_bits(pipeline, settled, prompt, 0).bits]

    def loaded(dtype: str) -> Pipeline:
        return load("emoji", device="cpu", dtype=dtype)

    return compare_with_official(folder, loaded, settled.request, bits, lambda _: None)


def test_the_published_code_agrees(tmp_path: Path, pipeline: Pipeline, settled: Settled) -> None:
    facts, findings = compared(checkout(tmp_path), pipeline, settled)
    assert [one.level for one in findings] == [Level.FINE] * 2, findings
    exact, published = facts["fp32"], facts["as_published"]
    assert isinstance(exact, dict)
    assert isinstance(published, dict)
    assert exact["agreement"] == 1
    assert exact["rms"] < 1e-4 * exact["size"]
    assert published["rms"] > 0


def test_what_differs_is_named(tmp_path: Path, pipeline: Pipeline, settled: Settled) -> None:
    fault = "model.shared_ada_lin[1].weight.data.mul_(1.5)"
    _, findings = compared(checkout(tmp_path, fault), pipeline, settled)
    first = findings[0]
    assert (first.name, first.level) == ("published code, fp32", Level.PROBLEM)


def test_a_checkout_that_does_not_run(tmp_path: Path, pipeline: Pipeline, settled: Settled) -> None:
    facts, (finding,) = compared(tmp_path, pipeline, settled)
    assert finding.level is Level.PROBLEM
    assert "No module named 'tools'" in finding.found
    assert facts["failed"]


def test_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = [[torch.randn(1, 4, 3, 2, generator=generator)]]
    same = apart(logits, logits, [0], 0.97)
    assert (same.rms, same.largest, same.agreement) == (0, 0, 1)
    other = apart([[logits[0][0] + 0.5]], logits, [0], 0.0)
    assert other.rms == pytest.approx(0.5)
    assert other.agreement == 1  # both classes alike
