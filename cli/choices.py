"""From options, environment and config file to one request that is known to make sense.

Knows options and settings; reads no weights and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from scalekv.configs.models import ModelPreset, model_named
from scalekv.configs.settings import Setting, Settings, Source
from scalekv.configs.sparsity import Sparsity, measured_sparsity
from scalekv.kv.budgets.budget import FULL as FULL
from scalekv.kv.errors import UserError, close_matches
from scalekv.kv.extras import needs

if TYPE_CHECKING:
    from scalekv.infinity_patch import Request
    from scalekv.infinity_patch.loading.placement import Placement

FORMS = ("json", "html", "table")


@dataclass(frozen=True)
class Options:
    """What was typed; None where nothing was."""

    prompts: tuple[str, ...]
    budget: str | None = None
    policy: str | None = None
    kv_dtype: str | None = None
    kv_device: str | None = None
    model: str | None = None
    seed: int | None = None
    num_images: int | None = None
    out: str | None = None
    cfg: str | None = None
    tau: str | None = None
    top_p: float | None = None
    ratio: str | None = None
    pixels: str | None = None
    negative: str | None = None
    truncate: bool | None = None
    dtype: str | None = None
    threads: str | None = None
    device: str | None = None
    weights_dir: str | None = None
    reproducible: bool | None = None
    batch_size: str | None = None
    quiet: bool | None = None
    cfg_layer: str | None = None
    positive_prompt: bool | None = None
    size: str | None = None
    offload: bool | None = None
    text_device: str | None = None
    text_dtype: str | None = None
    keep_text_encoder: bool | None = None
    memory_report: str | None = None
    force: bool = False


@dataclass(frozen=True)
class Choices:
    """What a run needs to know. `model` says which model it is and who chose it; `sparsity` is what
    a calibration of it found, where there is one."""

    request: Request
    preset: ModelPreset
    model: Setting
    out: Path
    device: str
    dtype: str
    weights_dir: Path | None
    placement: Placement
    quiet: bool = False
    memory_report: tuple[str, ...] = ("json", "table")
    force: bool = False
    sparsity: Sparsity | None = None


def choose(options: Options, environment: Mapping[str, str] | None = None) -> Choices:
    """Settles every choice by: option, environment, config file, preset.

    Raises:
        UserError: a value that cannot be read, an unknown model, or choices that contradict.
    """
    from scalekv.infinity_patch import Request
    from scalekv.infinity_patch.loading.placement import Placement, check_device, check_dtype

    settings = Settings(environment)
    model = settings.get("model", options.model)
    preset = model_named(model.value, model.origin)
    policy, budget = policy_and_budget(
        settings.get("policy", options.policy), settings.get("budget", options.budget)
    )
    dtype = settings.get("dtype", options.dtype)
    text_dtype = settings.get("text_dtype", options.text_dtype)
    for precision in (dtype, text_dtype):
        check_dtype(precision.value, precision.origin)
    device = settings.get("device", options.device)
    text_device = settings.get("text_device", options.text_device)
    for place in (device, text_device):
        check_device(place.value, place.origin)
    keep = settings.get("keep_text_encoder", options.keep_text_encoder)
    ratio, pixels = _ratio_and_pixels(settings, options, preset)
    folder = settings.get("weights_dir", options.weights_dir).value
    out = settings.get("out", options.out)
    if not out.value.strip():
        raise UserError(
            "the output folder has no name", where=out.origin, fix="name one, or leave it out"
        )
    reproducible = settings.get("reproducible", options.reproducible)
    negative = settings.get("negative", options.negative).value or None
    for prompt in (*options.prompts, negative or ""):
        _check_readable(prompt)
    return Choices(
        request=Request(
            prompts=options.prompts,
            policy=policy,
            budget=budget,
            kv_dtype=settings.get("kv_dtype", options.kv_dtype).value,
            kv_device=settings.get("kv_device", options.kv_device).value,
            seed=settings.get("seed", options.seed).count(),
            num_images=settings.get("num_images", options.num_images).count(least=1),
            cfg=_numbers(settings.get("cfg", options.cfg)),
            tau=_numbers(settings.get("tau", options.tau)),
            top_p=_number(settings.get("top_p", options.top_p)),
            cfg_layer=_layers(settings.get("cfg_layer", options.cfg_layer)),
            ratio=ratio,
            pixels=pixels,
            negative=negative,
            positive_prompt=settings.get("positive_prompt", options.positive_prompt).flag(),
            truncate=settings.get("truncate", options.truncate).flag(),
            batch_size=_batch_size(settings.get("batch_size", options.batch_size)),
            reproducible=reproducible.flag() if reproducible.value else None,
        ),
        preset=preset,
        model=model,
        out=Path(out.value).expanduser(),
        device=device.value,
        dtype=dtype.value,
        weights_dir=Path(folder).expanduser() if folder else None,
        placement=Placement(
            offload=settings.get("offload", options.offload).flag(),
            text_device=text_device.value,
            text_dtype=text_dtype.value,
            keep_text_encoder=keep.flag() if keep.value else None,
            threads=_threads(settings.get("threads", options.threads)),
        ),
        quiet=settings.get("quiet", options.quiet).flag(),
        memory_report=_forms(settings.get("memory_report", options.memory_report)),
        force=options.force,
        sparsity=measured_sparsity(preset.name, budget, own_weights=bool(folder)),
    )


def _forms(setting: Setting) -> tuple[str, ...]:
    """The forms of the memory report asked for, each once."""
    forms = tuple(dict.fromkeys(word.strip() for word in setting.value.split(",")))
    for form in forms:
        if form not in FORMS:
            raise UserError(
                f"no memory report of the form {form!r}",
                where=setting.origin,
                rule="one or several, with commas between, of " + ", ".join(FORMS),
                fix=close_matches(form, FORMS),
            )
    if "html" in forms:
        needs("matplotlib", "the report's page", "another form of --memory-report")
    return forms


def _threads(setting: Setting) -> int | None:
    """How many threads to compute with; None leaves it to torch and its own variables.

    Raises:
        UserError: neither "auto" nor a number of at least 1.
    """
    from scalekv.infinity_patch.machine.machine import sensible_threads

    return sensible_threads() if setting.value == "auto" else setting.count(least=1)


def _numbers(setting: Setting) -> float | tuple[float, ...] | None:
    """One number, or the numbers of a comma-separated list, one per scale; None for "".

    Raises:
        UserError: something in it is no number.
    """
    rule = "one number, or one per scale with commas between"
    return _listed(setting, float, rule, "3, or 1,2,3,3,3,3,3")


def _layers(setting: Setting) -> int | tuple[int, ...] | None:
    """One guidance layer or several; None for "".

    Raises:
        UserError: something in it is no whole number.
    """
    rule = "whole numbers with commas between: 0 for the logits, or negative ones"
    return _listed(setting, int, rule, "0, or -1, or -1,-5")


N = TypeVar("N", int, float)


def _listed(
    setting: Setting, kind: Callable[[str], N], rule: str, fix: str
) -> N | tuple[N, ...] | None:
    if not setting.value:
        return None
    try:
        values = tuple(kind(part) for part in setting.value.split(","))
    except ValueError:
        raise UserError(
            f"cannot read {setting.value!r}", where=setting.origin, rule=rule, fix=fix
        ) from None
    return values[0] if len(values) == 1 else values


def _ratio_and_pixels(
    settings: Settings, options: Options, preset: ModelPreset
) -> tuple[str, str | None]:
    """The size asked for, in whichever way was said last: by option, then variable, then file."""
    from scalekv.infinity_patch.schedules import named_size

    size = settings.get("size", options.size)
    ratio = settings.get("ratio", options.ratio)
    pixels = settings.get("pixels", options.pixels)
    order = list(Source)
    others = [s for s in (ratio, pixels) if s.source is not Source.DEFAULT]
    strongest = min(others, key=lambda s: order.index(s.source), default=None)
    if size.value and strongest is not None and strongest.source is size.source:
        raise UserError(
            f"the size is given twice: {size.value}, and {strongest.name} {strongest.value}",
            where=f"{size.origin} and {strongest.origin}",
            rule="a size has its ratio and its pixel class",
            fix="leave one of them out",
        )
    stronger = strongest is None or order.index(size.source) < order.index(strongest.source)
    if size.value and stronger:
        return named_size(size.value, preset, size.origin)
    return ratio.value, pixels.value or None


def _batch_size(setting: Setting) -> int | str:
    from scalekv.infinity_patch.asked.request import AUTO

    return AUTO if setting.value == AUTO else setting.count(least=1)


def _number(setting: Setting) -> float | None:
    value = _numbers(setting)
    if isinstance(value, tuple):
        raise UserError(
            f"{setting.name} is {setting.value!r}", where=setting.origin, rule="one number"
        )
    return value


def policy_and_budget(policy: Setting, budget: Setting) -> tuple[str, str]:
    """Policy and budget that go together; what was typed decides over what is configured."""
    typed_policy, typed_budget = (s.source is Source.OPTION for s in (policy, budget))
    if policy.value == FULL and budget.value != FULL:
        if typed_budget:
            chosen = "--policy full" if typed_policy else f"policy full ({policy.origin})"
            raise UserError(
                f"{chosen} drops nothing, so it cannot keep to --budget {budget.value}",
                where="--policy and --budget",
                rule="the full policy has no budget",
                fix="leave out --budget, or choose another policy: --policy scalekv",
            )
        return FULL, FULL
    if budget.value == FULL and not typed_policy:
        return FULL, FULL
    return policy.value, budget.value


def _check_readable(prompt: str) -> None:
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError(
            "a prompt is not valid UTF-8",
            where=ascii(prompt),
            rule="prompts are text in the terminal's encoding",
            fix="check the locale, or the file the prompt came from",
        ) from None
