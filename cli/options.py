"""Options that several commands share, written once. Knows their names, help and panels; what they
come to is settled in `choices`."""

from __future__ import annotations

from typing import Annotated

import typer

from scalekv.configs.settings import DEFAULTS
from scalekv.kv.policies.registry import policy_names
from scalekv.kv.precision import KV_DTYPES

CACHE, SAMPLING, OUTPUT, MACHINE = "Cache", "Sampling", "Output", "Model and machine"

DEFAULTS_NOTE = (
    "Every default can be set as SCALEKV_MODEL, SCALEKV_NUM_IMAGES and so on, or in a config file "
    "(lines such as model: emoji; SCALEKV_CONFIG names another one). Options come first, then "
    "variables, then the file, then the model's preset. scalekv config shows which one holds."
)


_OF_THE_MODEL = ("cfg", "cfg_layer", "tau", "top_p", "pixels")


def _help(text: str, name: str) -> str:
    """The help of an option with the default that holds where nobody sets one."""
    default = DEFAULTS[name] or ("the model's" if name in _OF_THE_MODEL else "")
    if default in ("", "false"):
        return text
    return f"{text} [dim]\\[default: {default}][/dim]"


def _models(incomplete: str) -> list[str]:
    from scalekv.configs.models import list_models

    return [name for name in list_models() if name.startswith(incomplete)]


def _policies(incomplete: str) -> list[str]:
    return [name for name in policy_names() if name.startswith(incomplete)]


def _budgets(incomplete: str) -> list[str]:
    from scalekv.configs.budget_files import list_budgets

    names = dict.fromkeys(["10%", "20%", "full", *(spec.name for spec in list_budgets())])
    return [name for name in names if name.startswith(incomplete)]


Budget = Annotated[
    str | None,
    typer.Option(
        autocompletion=_budgets,
        metavar="BUDGET",
        help=_help(
            "What the cache may hold: 10% of the history, 650 tokens per layer, 1.5GiB, a "
            "named budget, a .yaml file, or full.",
            "budget",
        ),
        rich_help_panel=CACHE,
    ),
]
Policy = Annotated[
    str | None,
    typer.Option(
        autocompletion=_policies,
        metavar="NAME",
        help=_help("What chooses the tokens to keep: " + ", ".join(policy_names()) + ".", "policy"),
        rich_help_panel=CACHE,
    ),
]
KvDtype = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=_help(
            "How held tokens are stored: " + ", ".join(KV_DTYPES) + ". int8 and int4 are quantised "
            "once, when a token comes in; auto is as attention computes.",
            "kv_dtype",
        ),
        rich_help_panel=CACHE,
    ),
]
KvDevice = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=_help(
            "Where held tokens are: auto (where attention computes), or cpu (in the host's memory, "
            "brought to the GPU a layer ahead).",
            "kv_device",
        ),
        rich_help_panel=CACHE,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help=_help("Seed of the first picture; each further one has the next.", "seed"),
        rich_help_panel=SAMPLING,
    ),
]
NumImages = Annotated[
    int | None,
    typer.Option(
        "--num-images",
        "-n",
        min=1,
        metavar="N",
        help=_help("Pictures of each prompt.", "num_images"),
        rich_help_panel=SAMPLING,
    ),
]
Cfg = Annotated[
    str | None,
    typer.Option(
        metavar="X[,X...]",
        help=_help(
            "Guidance: how closely to follow the prompt; one number, or one per scale.", "cfg"
        ),
        rich_help_panel=SAMPLING,
    ),
]
Tau = Annotated[
    str | None,
    typer.Option(
        metavar="X[,X...]",
        help=_help(
            "Temperature: lower is tidier, higher more varied; one number, or one per scale.",
            "tau",
        ),
        rich_help_panel=SAMPLING,
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="X",
        help=_help("Nucleus: unlikely bits outside this share are not drawn; 0 is off.", "top_p"),
        rich_help_panel=SAMPLING,
    ),
]
CfgLayer = Annotated[
    str | None,
    typer.Option(
        metavar="N[,N...]",
        help=_help(
            "Where guidance mixes: 0 in the logits, -1 in the hidden states after the last block, "
            "-2 after the one before it, and so on.",
            "cfg_layer",
        ),
        rich_help_panel=SAMPLING,
    ),
]
Negative = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="What to keep away from.", rich_help_panel=SAMPLING),
]
PositivePrompt = Annotated[
    bool | None,
    typer.Option(
        "--positive-prompt/--no-positive-prompt",
        help="Add words for better faces to prompts that mention people.",
        show_default=False,
        rich_help_panel=SAMPLING,
    ),
]
Truncate = Annotated[
    bool | None,
    typer.Option(
        "--truncate/--no-truncate",
        help="Cut prompts beyond 512 tokens instead of refusing them; says what was cut.",
        show_default=False,
        rich_help_panel=SAMPLING,
    ),
]
Ratio = Annotated[
    str | None,
    typer.Option(metavar="W:H", help=_help("Width to height.", "ratio"), rich_help_panel=SAMPLING),
]
Pixels = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS",
        help=_help("Size: 0.06M, 0.25M, 0.60M or 1M pixels at stride 16.", "pixels"),
        rich_help_panel=SAMPLING,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="WxH",
        help="Width and height in pixels, instead of --ratio and --pixels.",
        rich_help_panel=SAMPLING,
    ),
]
Reproducible = Annotated[
    bool | None,
    typer.Option(
        "--reproducible/--no-reproducible",
        help="One picture at a time, so that a seed gives the same bits alone and among others "
        "whatever --batch-size says. [dim]\\[default: on a CPU][/dim]",
        show_default=False,
        rich_help_panel=SAMPLING,
    ),
]
BatchSize = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help=_help(
            "Pictures that go through the model together; auto is what free GPU memory takes, "
            "and 1 on a CPU. Halved where memory runs out.",
            "batch_size",
        ),
        rich_help_panel=MACHINE,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        autocompletion=_models,
        metavar="NAME",
        help=_help("Which model.", "model"),
        rich_help_panel=MACHINE,
    ),
]
WeightsDir = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Folder with the model's files instead of the usual place.",
        rich_help_panel=MACHINE,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=_help("auto, cpu, cuda, cuda:1 or mps.", "device"),
        rich_help_panel=MACHINE,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=_help("Precision: auto, fp32, bf16 or fp16.", "dtype"),
        rich_help_panel=MACHINE,
    ),
]
Threads = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help=_help(
            "CPU threads to compute with; auto is one per physical core that this process may use.",
            "threads",
        ),
        rich_help_panel=MACHINE,
    ),
]
Offload = Annotated[
    bool | None,
    typer.Option(
        "--offload/--no-offload",
        help="Keep the transformer's blocks in host memory and send them to the device one after "
        "another: slower, for cards that the model does not fit.",
        show_default=False,
        rich_help_panel=MACHINE,
    ),
]
TextDevice = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=_help("Where prompts are encoded: auto is --device's, or cpu, cuda.", "text_device"),
        rich_help_panel=MACHINE,
    ),
]
TextDtype = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=_help(
            "Precision of the text encoder: fp32, bf16 or fp16; auto is fp16 on CUDA, as "
            "published, and fp32 elsewhere.",
            "text_dtype",
        ),
        rich_help_panel=MACHINE,
    ),
]
KeepTextEncoder = Annotated[
    bool | None,
    typer.Option(
        "--keep-text-encoder/--free-text-encoder",
        help="Keep the text encoder in memory while pictures are made, or free it and read it "
        "again when more prompts come. [dim]\\[default: free where all prompts are known][/dim]",
        show_default=False,
        rich_help_panel=MACHINE,
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help=_help("Folder for pictures and report; nothing in it is overwritten.", "out"),
        rich_help_panel=OUTPUT,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Try also what is planned not to fit into memory; see scalekv plan.",
        rich_help_panel=MACHINE,
    ),
]
MemoryReport = Annotated[
    str | None,
    typer.Option(
        metavar="FORM[,FORM...]",
        help=_help(
            "Forms of the memory report: json (report.json), html (a page of its own), table.",
            "memory_report",
        ),
        rich_help_panel=OUTPUT,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="One JSON object on stdout instead of lines; an error is one on stderr.",
        rich_help_panel=OUTPUT,
    ),
]
Quiet = Annotated[
    bool | None,
    typer.Option(
        "--quiet/--no-quiet",
        "-q",
        help="Nothing on stderr but errors.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        help="Show where a failure happened. [dim]\\[env: SCALEKV_DEBUG][/dim]",
        rich_help_panel=OUTPUT,
    ),
]
