"""From options, environment and config file to one request that is known to make sense.

Knows options and settings; reads no weights and prints nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekv.configs.models import ModelPreset, model_named
from scalekv.configs.option import Owner
from scalekv.configs.options import BY_NAME, SETTINGS
from scalekv.configs.recorded import AttentionChoice
from scalekv.configs.settings import Setting, Settings, Source
from scalekv.configs.sparsity import Sparsity, measured_sparsity
from scalekv.configs.values import AUTO
from scalekv.kv.budgets.budget import FULL as FULL
from scalekv.kv.errors import UserError
from scalekv.kv.extras import needs

if TYPE_CHECKING:
    from scalekv.infinity_patch import Request
    from scalekv.infinity_patch.loading.placement import Placement


@dataclass(frozen=True)
class Options:
    """What was typed: prompts, and by name options of `configs.options`; None where nothing was."""

    prompts: tuple[str, ...]
    typed: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = self.typed.keys() - BY_NAME.keys()
        assert not unknown, f"not in the table of options: {unknown}"

    def changed(self, prompts: tuple[str, ...] | None = None, **typed: Any) -> Options:
        """The same with other prompts and options."""
        return Options(self.prompts if prompts is None else prompts, {**self.typed, **typed})


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
    memory_report: tuple[str, ...] = ("json",)
    record: AttentionChoice | None = None
    force: bool = False
    sparsity: Sparsity | None = None


def choose(options: Options, environment: Mapping[str, str] | None = None) -> Choices:
    """Settles every choice by: option, environment, config file, preset.

    Raises:
        UserError: a value that cannot be read, an unknown model, or choices that contradict.
    """
    from scalekv.infinity_patch import Request
    from scalekv.infinity_patch.loading.placement import Placement
    from scalekv.infinity_patch.machine.machine import sensible_threads

    settings = Settings(environment)
    found = {name: settings.get(name, options.typed.get(name)) for name in SETTINGS}
    preset = model_named(found["model"].value, found["model"].origin)
    values = {name: setting.read() for name, setting in found.items()}
    values["policy"], values["budget"] = policy_and_budget(found["policy"], found["budget"])
    values["ratio"], values["pixels"] = ratio_and_pixels(
        found["size"], found["ratio"], found["pixels"], preset
    )
    if values["threads"] == AUTO:
        values["threads"] = sensible_threads()
    if "html" in values["memory_report"]:
        needs("matplotlib", "the report's page", "another form of --memory-report")
    for prompt in (*options.prompts, values["negative"] or ""):
        _check_readable(prompt)
    force = bool(options.typed.get("force"))

    def fields_of(owner: Owner) -> dict[str, Any]:
        return {name: values[name] for name, row in SETTINGS.items() if row.owner is owner}

    return Choices(
        request=Request(prompts=options.prompts, **fields_of(Owner.REQUEST)),
        preset=preset,
        model=found["model"],
        placement=Placement(**fields_of(Owner.PLACEMENT)),
        **fields_of(Owner.RUN),
        force=force,
        sparsity=measured_sparsity(
            preset.name, values["budget"], own_weights=values["weights_dir"] is not None
        ),
    )


def ratio_and_pixels(
    size: Setting, ratio: Setting, pixels: Setting, preset: ModelPreset
) -> tuple[str, str | None]:
    """The size asked for, in whichever way was said last: by option, then variable, then file.

    Raises:
        UserError: it is said in both ways at once, or is none that the model draws.
    """
    from scalekv.infinity_patch.schedules import named_size

    order = list(Source)
    others = [s for s in (ratio, pixels) if s.source is not Source.DEFAULT]
    strongest = min(others, key=lambda s: order.index(s.source), default=None)
    if size.value and strongest is not None and strongest.source is size.source:
        raise UserError(
            f"the size is given twice: {size.value}, and {strongest.name} {strongest.value}",
            where=" and ".join(dict.fromkeys((size.origin, strongest.origin))),
            rule="a size has its ratio and its pixel class",
            fix="leave one of them out",
        )
    stronger = strongest is None or order.index(size.source) < order.index(strongest.source)
    if size.value and stronger:
        return named_size(size.value, preset, size.origin)
    return ratio.value, pixels.value or None


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
