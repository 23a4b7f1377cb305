"""The command `scalekv compare`: its options. How it is done is `comparison`'s business."""

from __future__ import annotations

from typing import Annotated

import typer

from scalekv.cli import options as given
from scalekv.cli.options import DEFAULTS_NOTE

HELP = (
    "Draw the same seeds under several budgets and policies, side by side.\n\n"
    "One load of the model. The full cache is always the reference: PSNR and SSIM are against its "
    "picture. Paths of the sheet and of the figures go to stdout, the table to stderr."
)
EPILOG = (
    """
Examples:

  scalekv compare "a red apple" --budget 20%,10%,5%

  scalekv compare "an owl" "a fox" -n 4 --policy scalekv,snapkv,streaming-llm

  scalekv compare "a pizza" --budget 10% --budget mine.yaml --json | jq '.variants'

"""
    + DEFAULTS_NOTE
)


def compare(
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT", help="What to draw.", show_default=False)
    ],
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BUDGET[,...]",
            help="Budgets to compare, with commas between or given again. "
            "[dim]\\[default: the one set][/dim]",
            rich_help_panel=given.CACHE,
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,...]",
            help="Policies to compare, each under every budget. "
            "[dim]\\[default: the one set][/dim]",
            rich_help_panel=given.CACHE,
        ),
    ] = None,
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
    model: given.Model = None,
    weights_dir: given.WeightsDir = None,
    device: given.Device = None,
    dtype: given.Dtype = None,
    threads: given.Threads = None,
    offload: given.Offload = None,
    text_device: given.TextDevice = None,
    text_dtype: given.TextDtype = None,
    keep_text_encoder: given.KeepTextEncoder = None,
    out: given.Out = None,
    side: Annotated[
        int,
        typer.Option(
            min=16,
            metavar="N",
            help="Pixels of a picture on the sheet, at most.",
            rich_help_panel=given.OUTPUT,
        ),
    ] = 256,
    across: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Prompts side by side on the sheet.",
            rich_help_panel=given.OUTPUT,
        ),
    ] = 1,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="Keep every picture too, in a folder for each budget.",
            rich_help_panel=given.OUTPUT,
        ),
    ] = False,
    json: given.Json = False,
    quiet: given.Quiet = None,
    verbose: given.Verbose = False,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.cli.choices import Options
    from scalekv.cli.compare.run import Comparison, variants
    from scalekv.cli.console.errors import stderr, turn_on_debugging

    if verbose:
        turn_on_debugging()
    options = Options(
        prompts=tuple(prompts),
        model=model,
        seed=seed,
        num_images=num_images,
        out=out,
        cfg=cfg,
        tau=tau,
        top_p=top_p,
        ratio=ratio,
        pixels=pixels,
        negative=negative,
        truncate=truncate,
        dtype=dtype,
        threads=threads,
        device=device,
        weights_dir=weights_dir,
        offload=offload,
        text_device=text_device,
        text_dtype=text_dtype,
        keep_text_encoder=keep_text_encoder,
        cfg_layer=cfg_layer,
        positive_prompt=positive_prompt,
        size=size,
        reproducible=True,  # each picture as it is alone, so that --from and generate repeat it
        quiet=quiet,
    )
    Comparison(
        variants(options, policy or (), budget or ()),
        stderr(),
        side=side,
        across=across,
        keep=keep,
        json=json,
    ).execute()
