"""Every option that more than one place knows: a row for each.

Commands, the settings file, SCALEKV_* variables, the columns of a batch's rows, --from and
docs/cli.md follow from this table. Knows no command line and no request. No torch.
"""

from __future__ import annotations

from functools import partial

from scalekv.configs import values
from scalekv.configs.option import (
    ALL,
    CACHE,
    DRAW,
    LOADING,
    MACHINE,
    MAKE,
    PLANNED,
    REPLAYING,
    SAMPLED,
    SAMPLING,
    Option,
    Owner,
    Scope,
)
from scalekv.configs.output_options import OUTPUT_OPTIONS
from scalekv.configs.spec import DTYPES, PIXELS, PIXELS_IN_WORDS, WEIGHTS
from scalekv.configs.values import AUTO, Kind, one_of, pattern, seeds, whole
from scalekv.kv.policies.registry import check_policy_name, policy_names
from scalekv.kv.precision import KV_DTYPES


def _models(_model: str) -> list[str]:
    from scalekv.configs.models import list_models

    return list_models()


def _budgets(model: str) -> list[str]:
    from scalekv.configs.budget_files import list_budgets
    from scalekv.configs.models import model_named

    named = (spec.name for spec in list_budgets(model_named(model).name))
    return ["20%", "10%", "5%", *(name for name in named if name != "default"), "full"]


def _check_budget(value: str) -> None:
    from scalekv.kv.budgets.asked import parse_budget

    parse_budget(value)


_TEXT, _FOLDER = Kind(values.text, "TEXT"), Kind(values.path, "DIR")
_FLAG = Kind(values.flag, shell=bool)
_NUMBERS = Kind(values.numbers, "X[,X...]", several=True)
_LAYERS = Kind(values.layers, "N[,N...]", several=True)
_DEVICE = pattern(
    r"auto|cpu|mps|cuda(:\d+)?",
    "NAME",
    "auto, cpu, mps, cuda, or cuda:1 and so on",
    "leave it out to use the best device there is",
    known=lambda _: (AUTO, "cpu", "cuda", "mps"),
)
_RATIO = pattern(
    r"\s*\d+\s*:\s*\d+\s*",
    "W:H",
    "a ratio is width:height",
    "1:1, for instance",
)
_SIZE = pattern(
    r"\s*\d{1,6}\s*[xX×]\s*\d{1,6}\s*", "WxH", "width x height in pixels", "1024x1024, for instance"
)

_cache = partial(Option, panel=CACHE, owner=Owner.REQUEST, scope=Scope.PICTURE)
_sampling = partial(Option, panel=SAMPLING, owner=Owner.REQUEST, scope=Scope.PICTURE)
_machine = partial(Option, panel=MACHINE, owner=Owner.RUN, scope=Scope.RUN)
_placement = partial(Option, panel=MACHINE, owner=Owner.PLACEMENT, scope=Scope.RUN)

OPTIONS: tuple[Option, ...] = (
    _cache(
        "budget",
        Kind(values.text_or_count, "BUDGET", known=_budgets, check=_check_budget),
        "What the cache may hold: 10% of the history, 650 tokens per layer, 1.5GiB, a named "
        "budget, a .yaml file, or full.",
        (*PLANNED, "bench"),
        default="10%",
    ),
    _cache(
        "policy",
        Kind(values.text, "NAME", known=lambda _: policy_names(), check=check_policy_name),
        "What chooses the tokens to keep: " + ", ".join(policy_names()) + ".",
        (*PLANNED, "bench"),
        default="scalekv",
    ),
    _cache(
        "kv_dtype",
        one_of(*KV_DTYPES),
        "How held tokens are stored: " + ", ".join(KV_DTYPES) + ". int8 and int4 are quantised "
        "once, when a token comes in; auto is as attention computes.",
        PLANNED,
        default=AUTO,
    ),
    _cache(
        "kv_device",
        one_of(AUTO, "cpu"),
        "Where held tokens are: auto (where attention computes), or cpu (in the host's memory, "
        "brought to the GPU a layer ahead).",
        PLANNED,
        scope=Scope.RUN,
        default=AUTO,
    ),
    _sampling(
        "seed",
        seeds(at_random=True),
        "Seed of the first picture, each further one has the next; or random; or several, of which "
        "every prompt gets all.",
        (*DRAW, "bench", "calibrate", "selftest"),
        default="0",
        names=("--seed", "-s"),
    ),
    _sampling(
        "same_seed",
        _FLAG,
        "Every prompt begins with --seed again, instead of going on where the one before ended.",
        DRAW,
        owner=Owner.NOBODY,
        scope=Scope.RUN,
        default="false",
    ),
    _sampling(
        "wildcards",
        Kind(values.text, "on|DIR", known=lambda _: ("on", "off")),
        "Draw a word of {red|blue} in prompts, and with DIR a line of DIR/NAME.txt for __NAME__; "
        "which one follows from the picture's seed.",
        DRAW,
        owner=Owner.RUN,
        scope=Scope.RUN,
        default="off",
    ),
    _sampling(
        "num_images",
        whole(1),
        "Pictures of each prompt.",
        DRAW,
        default="1",
        names=("--num-images", "-n"),
    ),
    _sampling(
        "cfg",
        _NUMBERS,
        "Guidance: how closely to follow the prompt; one number, or one per scale.",
        (*DRAW, "bench", "plan", "serve"),
        preset=lambda preset: preset.sampling.cfg,
    ),
    _sampling(
        "cfg_layer",
        _LAYERS,
        "Where guidance mixes: 0 in the logits, -1 in the hidden states after the last block, -2 "
        "after the one before it, and so on.",
        SAMPLED,
        preset=lambda preset: preset.sampling.cfg_layer,
    ),
    _sampling(
        "tau",
        _NUMBERS,
        "Temperature: lower is tidier, higher more varied; one number, or one per scale.",
        SAMPLED,
        preset=lambda preset: preset.sampling.tau,
    ),
    _sampling(
        "top_p",
        Kind(values.share, "X", shell=float, least=0.0, most=1.0),
        "Nucleus: unlikely bits outside this share are not drawn; 0 is off.",
        SAMPLED,
        preset=lambda preset: preset.sampling.top_p,
    ),
    _sampling(
        "negative",
        _TEXT,
        "What to keep away from.",
        SAMPLED,
    ),
    _sampling(
        "positive_prompt",
        _FLAG,
        "Add words for better faces to prompts that mention people.",
        SAMPLED,
        default="false",
    ),
    _sampling(
        "truncate",
        _FLAG,
        "Cut prompts beyond 512 tokens instead of refusing them; says what was cut.",
        (*SAMPLED, "calibrate"),
        default="false",
    ),
    _sampling(
        "ratio",
        _RATIO,
        "Width to height.",
        ALL,
        default="1:1",
    ),
    _sampling(
        "pixels",
        one_of(*PIXELS, metavar="CLASS", words=PIXELS_IN_WORDS),
        "Size, beside --ratio: " + PIXELS_IN_WORDS + ".",
        ALL,
        preset=lambda preset: preset.pixels,
    ),
    _sampling(
        "size",
        _SIZE,
        "Width and height in pixels, instead of --ratio and --pixels.",
        (*SAMPLED, "plan"),
        owner=Owner.NOBODY,
    ),
    _sampling(
        "reproducible",
        _FLAG,
        "One picture at a time, so that a seed gives the same bits alone and among others "
        "whatever --batch-size says.",
        (*MAKE, "serve"),
        scope=Scope.RUN,
        otherwise="on a CPU",
    ),
    _machine(
        "batch_size",
        whole(1, auto=True),
        "Pictures that go through the model together; auto is what free GPU memory takes, and 1 "
        "on a CPU. Halved where memory runs out.",
        (*MAKE, "serve"),
        owner=Owner.REQUEST,
        default=AUTO,
        names=("--batch-size", "--batch"),
    ),
    _machine(
        "model",
        Kind(values.text, "NAME", known=_models),
        "Which model.",
        ALL,
        owner=Owner.NOBODY,
        default="emoji",
        names=("--model", "-m"),
        repeats=True,
    ),
    _machine(
        "weights_dir",
        _FOLDER,
        "Folder with the model's files instead of the usual place.",
        LOADING,
        repeats=True,
    ),
    _machine(
        "device",
        _DEVICE,
        "auto, cpu, cuda, cuda:1 or mps.",
        ALL,
        default=AUTO,
        repeats=True,
    ),
    _machine(
        "dtype",
        one_of(*DTYPES),
        "Precision: auto, fp32, bf16 or fp16.",
        ALL,
        default=AUTO,
    ),
    _placement(
        "weights",
        one_of(*WEIGHTS),
        "How the transformer's linear layers hold their weights: int8 and fp8 take half of bf16. "
        "int8 is of the weights alone; fp8 multiplies in fp8 where the GPU can. auto is "
        "--dtype's, or int8 where that would not fit.",
        ALL,
        default=AUTO,
    ),
    _placement(
        "threads",
        whole(1, auto=True),
        "CPU threads to compute with; auto is one per physical core that this process may use.",
        LOADING,
        default=AUTO,
        repeats=True,
    ),
    _placement(
        "graphs",
        one_of(AUTO, "on", "off"),
        "Record the scales of pictures as CUDA graphs and replay them: auto when pictures of one "
        "shape come a second time, on the first time, off. Pictures are the same.",
        REPLAYING,
        default=AUTO,
        repeats=True,
    ),
    _placement(
        "offload",
        _FLAG,
        "Keep the transformer's blocks in host memory and send them to the device one after "
        "another: slower, for cards that the model does not fit.",
        ALL,
        default="false",
        repeats=True,
    ),
    _placement(
        "text_device",
        _DEVICE,
        "Where prompts are encoded: auto is --device's, or cpu, cuda.",
        ALL,
        default=AUTO,
        repeats=True,
    ),
    _placement(
        "text_dtype",
        one_of(*DTYPES),
        "Precision of the text encoder: fp32, bf16 or fp16; auto is fp16 on CUDA, as published, "
        "and fp32 elsewhere.",
        ALL,
        default=AUTO,
    ),
    _placement(
        "keep_text_encoder",
        _FLAG,
        "Keep the text encoder in memory while pictures are made, or free it and read it again "
        "when more prompts come.",
        (*DRAW, "bench", "calibrate", "plan"),
        otherwise="free where all prompts are known",
        names=("--keep-text-encoder/--free-text-encoder",),
        repeats=True,
    ),
    _machine(
        "force",
        _FLAG,
        "Try also what is planned not to fit into memory; see scalekv plan.",
        LOADING,
        scope=Scope.CALL,
        default="false",
        repeats=True,
    ),
    *OUTPUT_OPTIONS,
)

BY_NAME = {option.name: option for option in OPTIONS}
SETTINGS = {o.name: o for o in OPTIONS if o.scope is not Scope.CALL}
"""What the settings file and variables may say."""
COLUMNS = {o.name: o for o in OPTIONS if o.scope is Scope.PICTURE}
"""What a row of a batch may say of its pictures, besides the prompt and the name."""
