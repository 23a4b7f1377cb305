"""From options, environment and config file to one request that is known to make sense.

Knows options and settings; reads no weights and prints nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekv.cli.pictures.formats import PNG, format_of
from scalekv.cli.prompts.seeds import Seeds
from scalekv.cli.prompts.wildcards import BadTemplate, Wildcards
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
    a calibration of it found, where there is one; `templates` are the prompts as they were typed,
    one for each picture, where wildcards were drawn in them; `each` says how many pictures are of
    one prompt."""

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
    seeds: Seeds = field(default_factory=Seeds)
    wildcards: Wildcards | None = None
    templates: tuple[str, ...] = ()
    each: int = 1
    name: str | None = None
    format: str = PNG
    quality: int = 95
    metadata: bool = True
    open: bool = False


def choose(
    options: Options, environment: Mapping[str, str] | None = None, *, threads: int | None = None
) -> Choices:
    """Settles every choice by: option, environment, config file, preset.

    Args:
        threads: where nobody says how many; None: as many as this process may well use.

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
        values["threads"] = threads or sensible_threads()
    if "html" in values["memory_report"]:
        needs("matplotlib", "the report's page", "another form of --memory-report")
    for prompt in (*options.prompts, values["negative"] or ""):
        _check_readable(prompt)
    out: Path = values["out"]
    in_file = None if out.is_dir() else format_of(out)
    if in_file is not None:
        values["format"] = _format_of_file(found["format"], values["format"], out, in_file)
        if found["memory_report"].source is Source.DEFAULT:
            values["memory_report"] = ("table",)  # whoever names a file is to get that one
    if found["quality"].source is Source.OPTION and values["format"] == PNG:
        raise UserError(
            "PNG has no quality: it keeps every pixel",
            where="--quality",
            rule="a quality is for jpg and webp",
            fix="--format jpg, or leave out --quality",
        )
    values["wildcards"] = Wildcards.of(values["wildcards"], found["wildcards"].origin)
    seeds = Seeds.of(values["seed"], same=values["same_seed"])
    each = _pictures_each(found["num_images"], values["num_images"], seeds)
    drawn = _drawn(options.prompts, each, seeds, values["wildcards"])

    def fields_of(owner: Owner) -> dict[str, Any]:
        return {name: values[name] for name, row in SETTINGS.items() if row.owner is owner}

    return Choices(
        request=Request(
            prompts=options.prompts if drawn is None else drawn,
            **{
                **fields_of(Owner.REQUEST),
                "seed": seeds.first,
                "num_images": each if drawn is None else 1,
            },
            seeds=seeds.all_of(len(options.prompts) * each, each) or None,
        ),
        preset=preset,
        model=found["model"],
        placement=Placement(**fields_of(Owner.PLACEMENT)),
        **fields_of(Owner.RUN),
        name=options.typed.get("name"),
        force=bool(options.typed.get("force")),
        open=bool(options.typed.get("open")),
        seeds=seeds,
        each=each,
        templates=() if drawn is None else tuple(p for p in options.prompts for _ in range(each)),
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


def _format_of_file(asked: Setting, read: str, out: Path, named: str) -> str:
    """The format that the name of a file says.

    Raises:
        UserError: --format says another.
    """
    if asked.source is Source.OPTION and named != read:
        raise UserError(
            f"{out} is a {named}, and --format says {read}",
            where="--out and --format",
            rule="a file's suffix says its format",
            fix=f"leave out --format, or --out {out.with_suffix('.' + read)}",
        )
    return named


def _pictures_each(asked: Setting, read: int, seeds: Seeds) -> int:
    """Pictures of each prompt.

    Raises:
        UserError: more or fewer are asked for than seeds are named.
    """
    if not seeds.listed:
        return read
    if asked.source is Source.OPTION and read != len(seeds.listed):
        raise UserError(
            f"{len(seeds.listed)} seeds, and {read} pictures of each prompt",
            where="--seed and --num-images",
            rule="named seeds say how many pictures there are",
            fix="leave out --num-images",
        )
    return len(seeds.listed)


def _drawn(
    prompts: tuple[str, ...], each: int, seeds: Seeds, wildcards: Wildcards | None
) -> tuple[str, ...] | None:
    """The prompt of every picture; None: as they were typed.

    Raises:
        UserError: one that is no template.
    """
    if wildcards is None:
        return None
    drawn = []
    for index in range(len(prompts) * each):
        try:
            seed = seeds.seed(index, index % each)
            drawn.append(wildcards.draw(prompts[index // each], seed))
        except BadTemplate as error:
            raise error.at("PROMPT and --wildcards") from None
    return tuple(drawn)


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
