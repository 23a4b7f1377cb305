"""The command `scalekv serve`: its options. What is done about them is `run`'s business."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalekv.cli import options as given
from scalekv.cli.options import DEFAULTS_NOTE

HELP = (
    "Keep the model warm and draw for programs: OpenAI's images API, and a page to draw from.\n\n"
    "The address goes to stdout. SIGTERM and Ctrl-C finish what was taken and end with 0. Options "
    "of the pictures are what a request that leaves them out gets."
)
EPILOG = (
    """
Examples:

  scalekv serve

  scalekv serve --model infinity-2b --budget 10% --port 8080

  scalekv serve --host 0.0.0.0 --api-key-file key.txt

  scalekv generate --server http://127.0.0.1:8000 "a fox"

"""
    + DEFAULTS_NOTE
)
SERVER = "Server"


def serve(
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Where to listen. Any but this machine's own needs --api-key-file.",
            rich_help_panel=SERVER,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="0 takes a free one.", rich_help_panel=SERVER),
    ] = 8000,
    queue: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="PICTURES",
            help="Pictures that may wait; a request beyond gets 429.",
            rich_help_panel=SERVER,
        ),
    ] = 64,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Requests must carry the key in this file.",
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ] = None,
    without_key: Annotated[
        bool,
        typer.Option(
            "--without-key",
            help="Draw for whoever reaches --host.",
            rich_help_panel=SERVER,
        ),
    ] = False,
    budget: given.Budget = None,
    policy: given.Policy = None,
    kv_dtype: given.KvDtype = None,
    kv_device: given.KvDevice = None,
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
    force: given.Force = False,
    verbose: given.Verbose = False,
) -> None:
    """The command; its help is `HELP`."""
    from scalekv.kv.extras import needs

    for package in ("fastapi", "uvicorn", "prometheus_client"):
        needs(package, "the server")
    from scalekv.cli.choices import Options, choose
    from scalekv.cli.console.errors import stderr, turn_on_debugging
    from scalekv.cli.serve.run import Server

    if verbose:
        turn_on_debugging()
    options = Options(
        prompts=("a prompt",),
        budget=budget,
        policy=policy,
        kv_dtype=kv_dtype,
        kv_device=kv_device,
        model=model,
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
        keep_text_encoder=True,
        reproducible=reproducible,
        batch_size=batch_size,
        force=force,
    )
    Server(
        choose(options),
        stderr(),
        host=host,
        port=port,
        most_waiting=queue,
        key_file=api_key_file,
        without_key=without_key,
    ).execute()
