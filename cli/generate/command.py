"""The command `scalekv generate`: its options. What they come to is settled in `choices`, what is
done about it in `run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalekv.cli import options as given
from scalekv.cli.options import DEFAULTS_NOTE

HELP = (
    "Draw pictures of PROMPT... with a compressed cache.\n\n"
    "Each quoted PROMPT is a picture of its own. Paths go to stdout, progress and the memory "
    "report to stderr; every picture has a JSON file with all its settings beside it."
)
# Paragraphs are single lines: the help's renderer keeps every line break it is given.
EPILOG = (
    """
Examples:

  scalekv generate "a red apple"

  scalekv generate "an owl" "a fox" -n 4 --budget 20% --out pictures

  scalekv generate "an owl" --policy full --seed 7

  scalekv generate --from out/7-an-owl.png --out again

  scalekv generate "a pizza" --cfg 1,2,3,3,3,3,3 --json | jq -r '.paths[]'

"""
    + DEFAULTS_NOTE
)


def generate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="What to draw.", show_default=False),
    ] = None,
    repeat: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="IMAGE.png",
            help="Make this picture again, bit for bit, from the settings in it; or say why that "
            "cannot be.",
            show_default=False,
        ),
    ] = None,
    budget: given.Budget = None,
    policy: given.Policy = None,
    kv_dtype: given.KvDtype = None,
    kv_device: given.KvDevice = None,
    seed: given.Seed = None,
    num_images: given.NumImages = None,
    cfg: given.Cfg = None,
    cfg_layer: given.CfgLayer = None,
    tau: given.Tau = None,
    top_p: given.TopP = None,
    negative: given.Negative = None,
    positive_prompt: given.PositivePrompt = None,
    truncate: given.Truncate = None,
    ratio: given.Ratio = None,
    pixels: given.Pixels = None,
    size: given.Size = None,
    reproducible: given.Reproducible = None,
    batch_size: given.BatchSize = None,
    model: given.Model = None,
    weights_dir: given.WeightsDir = None,
    device: given.Device = None,
    dtype: given.Dtype = None,
    threads: given.Threads = None,
    offload: given.Offload = None,
    text_device: given.TextDevice = None,
    text_dtype: given.TextDtype = None,
    keep_text_encoder: given.KeepTextEncoder = None,
    force: given.Force = False,
    out: given.Out = None,
    memory_report: given.MemoryReport = None,
    json: given.Json = False,
    quiet: given.Quiet = None,
    verbose: given.Verbose = False,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.choices import Options, choose
    from scalekv.cli.console.errors import stderr, turn_on_debugging
    from scalekv.cli.generate.run import Run

    if verbose:
        turn_on_debugging()
    options = Options(
        prompts=tuple(prompts or ()),
        budget=budget,
        policy=policy,
        kv_dtype=kv_dtype,
        kv_device=kv_device,
        model=model,
        seed=seed,
        num_images=num_images,
        out=out,
        cfg=cfg,
        cfg_layer=cfg_layer,
        tau=tau,
        top_p=top_p,
        ratio=ratio,
        pixels=pixels,
        size=size,
        negative=negative,
        positive_prompt=positive_prompt,
        truncate=truncate,
        dtype=dtype,
        threads=threads,
        device=device,
        weights_dir=weights_dir,
        offload=offload,
        text_device=text_device,
        text_dtype=text_dtype,
        keep_text_encoder=keep_text_encoder,
        reproducible=reproducible,
        batch_size=batch_size,
        quiet=quiet,
        memory_report=memory_report,
        force=force,
    )
    if repeat is None:
        Run(choose(options), stderr(), json=json).execute()
    else:
        from scalekv.cli.generate.repeat import Repetition

        Repetition.of(repeat, options, stderr(), json=json).execute()
