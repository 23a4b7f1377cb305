"""From what was asked for to the budget of a schedule: strings, files and objects alike.

Knows presets and budgets; no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekv.configs.budget_files import calibration_file, check_model, default_budget, load_budget
from scalekv.configs.models import ModelPreset, list_models, model_named
from scalekv.configs.yaml_files import (
    MOST_CALIBRATION_BYTES,
    MOST_CONSTANTS_BYTES,
    read_bytes,
    read_text,
)
from scalekv.infinity_patch.asked.request import (
    AUTO,
    DEFAULT_BUDGET,
    DEFAULT_POLICY,
    PerScale,
    Request,
    per_scale,
)
from scalekv.infinity_patch.files.hub import model_files
from scalekv.infinity_patch.schedules import schedule_for
from scalekv.kv.budgets.asked import BudgetLike, BudgetRequest, BudgetSpec, parse_budget, resolve
from scalekv.kv.budgets.budget import FULL, Budget, BytesOf, Drafters
from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.plan import allocation_of
from scalekv.kv.errors import UserError
from scalekv.kv.memory.predicted import CacheShape, stored_bytes_of
from scalekv.kv.policies.policy import Policy
from scalekv.kv.policies.registry import (
    entry_named,
    plan_named,
    planned,
    policy_and_file,
    policy_named,
    read_calibration,
    takes_budget,
)
from scalekv.kv.precision import ELEMENT_BYTES, precision_of
from scalekv.kv.schedule import Schedule

if TYPE_CHECKING:
    from tokenizers import Tokenizer
"""A budget as people give it: "10%", "650", "1.5GiB", "full", a name, a file; or an object."""

Made = Budget | Callable[[BytesOf], Budget]
"""A budget; or, where it depends on the bytes that tokens take, what makes it of those."""


def preset_like(depth: int, width: int, heads: int) -> ModelPreset | None:
    """The preset whose transformer has these sizes, or None."""
    for name in list_models():
        spec = model_named(name).transformer
        if (spec.depth, spec.width, spec.heads) == (depth, width, heads):
            return model_named(name)
    return None


def in_bytes(budget: BudgetLike | None) -> bool:
    """Whether a budget says how many bytes, so that batch and dtype decide how many tokens."""
    asked = parse_budget(budget) if isinstance(budget, str | int) else budget
    return isinstance(asked, BudgetRequest) and asked.nbytes is not None


def budget_maker(
    budget: BudgetLike, layers: int, model: str | None, drafters: Drafters | None
) -> Callable[[Schedule], Made]:
    """What turns a schedule into its budget, or into what makes the budget of a token's bytes.

    `model` is the preset's name, whose drafters are used where neither `drafters` nor the budget
    names any; an unknown model gets a uniform budget, and the budget's origin says so.

    Raises:
        UserError: what is wrong with the budget whatever the schedule; the rest when it is called.
    """
    if isinstance(budget, Budget):
        return lambda schedule: _checked(budget, schedule, layers)
    asked: BudgetSpec | BudgetRequest
    asked = parse_budget(budget) if isinstance(budget, str | int) else budget
    if isinstance(asked, BudgetRequest) and asked.name is not None:
        asked = load_budget(asked.name, model)
    if isinstance(asked, BudgetSpec):
        check_model(asked, model, asked.name)
        made = asked
        return lambda schedule: resolve(made, schedule, layers, drafters)
    origin = "drafters as given"
    if drafters is None:
        known = default_budget(model) if model is not None else None
        drafters = known.drafters if known is not None else ()
        origin = "no drafters are known for this model: uniform"
        if known is not None:
            origin = f"drafters of {model}: {known.provenance}"
    request, given = asked, drafters
    if request.nbytes is None:
        return lambda schedule: resolve(request, schedule, layers, given, origin=origin)
    return lambda schedule: (
        lambda bytes_of: resolve(request, schedule, layers, given, origin=origin, bytes_of=bytes_of)
    )


def _checked(budget: Budget, schedule: Schedule, layers: int) -> Budget:
    if budget.schedule != schedule or budget.layers != layers:
        raise UserError(
            f"budget {budget.label} was made for {budget.layers} layers and {budget.schedule}",
            where="budget",
            rule=f"this picture has {layers} layers and {schedule}",
            fix="give the budget as a percentage or a number of tokens",
        )
    return budget


def policy_for(policy: str | Policy, model: str | None) -> Policy:
    """The policy, with its calibration read: from the file it was given with
    ("heatkv:order.json"), else from those that come with the model.

    Args:
        model: a preset's name; None: a model that no preset describes.

    Raises:
        UserError: unknown policy, no calibration for the model, or a file that is none.
    """
    if not isinstance(policy, str):
        return policy
    calibration = calibration_of(policy, model)
    made: Any = policy_named(policy)
    ready: Policy = made if calibration is None else made.calibrated(calibration)
    return ready


def calibration_of(policy: str, model: str | None) -> Any:
    """What a policy works from, read without loading the policy; None: it needs nothing.

    Raises:
        UserError: as `policy_for`.
    """
    name, given = policy_and_file(policy)
    entry = entry_named(name)
    needed = "" if entry is None else entry.calibration
    if given is not None and not needed:
        raise UserError(
            f"the policy {name} reads no file",
            where=f"policy {policy!r}",
            rule="only a policy that works from a calibration takes one, as in heatkv:order.json",
            fix=f"--policy {name}",
        )
    if entry is None or not needed:
        return None
    path = Path(given) if given is not None else calibration_file(needed, model)
    if path is None:
        raise UserError(
            f"no {needed} is known for {model or 'this model'}",
            where=f"policy {name}",
            rule="it works from a calibration of the model",
            fix=f"scalekv calibrate --model {model or 'NAME'}, then --policy {name}:FILE",
        )
    try:
        status = path.stat()
        found = _read(name, path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise UserError(
            f"{path.name} cannot be read: {error}",
            where=str(path),
            rule=f"{name} reads the {needed} that scalekv calibrate writes",
            fix="give the path of one",
        ) from error
    if entry.stores and model is not None and found.about.get("model", model) != model:
        raise UserError(
            f"these are constants of {found.about['model']}",
            where=str(path),
            rule=f"{name} works from constants of the model itself, which is {model}",
            fix=f"scalekv calibrate --model {model} --coded",
        )
    return found


@lru_cache(maxsize=8)
def _read(name: str, path: Path, changed: int, size: int) -> Any:
    """A file's calibration, the same object for all pictures while the file is as it was."""
    entry = entry_named(name)
    assert entry is not None, name
    content = (
        read_bytes(path, MOST_CONSTANTS_BYTES)
        if entry.stores
        else read_text(path, MOST_CALIBRATION_BYTES)
    )
    return read_calibration(entry, content, str(path))


def constants_of(policy: str | Policy | None, model: str) -> Constants | None:
    """The constants a policy stores tokens by; None: it stores them as they come.

    Raises:
        UserError: as `policy_for`.
    """
    name = DEFAULT_POLICY if policy is None else policy
    if not isinstance(name, str):
        return getattr(name, "constants", None)
    entry = entry_named(policy_and_file(name)[0])
    if entry is None or not entry.stores:
        return None
    found: Constants = calibration_of(name, model)
    return found


def one_at_a_time(request: Request, device: str) -> bool:
    """Whether every picture is a batch of its own on a device of this type ("cpu", "cuda")."""
    return device == "cpu" if request.reproducible is None else request.reproducible


def fixed_batch(request: Request, device: str) -> int | None:
    """The most pictures at once on a device of this type; None: as many as free memory takes.

    A budget in bytes is for all pictures of a batch together, so that with no size given each
    picture has it to itself.
    """
    if one_at_a_time(request, device):
        return 1
    if request.batch_size == AUTO:
        return 1 if in_bytes(request.budget) else None
    assert isinstance(request.batch_size, int), request.batch_size
    return request.batch_size


def schedule_of(request: Request, preset: ModelPreset) -> Schedule:
    """The schedule the pictures are generated with."""
    if preset.ratios and request.ratio not in preset.ratios:
        schedule_for(request.ratio, preset.pixels)  # an unknown ratio has its own message
        raise UserError(
            f"{preset.name} was not made for the ratio {request.ratio}",
            where="--ratio",
            rule="its ratios are " + ", ".join(preset.ratios),
            fix=f"--ratio {preset.ratios[0]}, or another model",
        )
    if preset.ratios and request.pixels not in (None, preset.pixels):
        schedule_for(request.ratio, request.pixels)
        raise UserError(
            f"{preset.name} was not made for the pixel class {request.pixels}",
            where="--pixels",
            rule=f"its pictures are {preset.pixels}",
            fix="leave --pixels out, or take another model",
        )
    return schedule_for(request.ratio, request.pixels or preset.pixels)


def budget_of(
    request: Request,
    preset: ModelPreset,
    schedule: Schedule,
    element_bytes: int,
    together: int = 1,
) -> Budget:
    """The budget the caches are held to (of a policy that takes one).

    Args:
        element_bytes: of one element of k and v, on which a budget in bytes depends.
        together: pictures that are generated at once, likewise.

    Raises:
        UserError: a budget that cannot be.
    """
    layers = preset.transformer.depth
    asked = DEFAULT_BUDGET if request.budget is None else request.budget
    made = budget_maker(asked, layers, preset.name, request.drafters)(schedule)
    if isinstance(made, Budget):
        return made
    shape = cache_shape(request, preset, schedule, element_bytes, together)
    precision = precision_of(request.kv_dtype, {4: "fp32", 2: "bf16"}[element_bytes])
    return made(stored_bytes_of(shape, precision, schedule))


def cache_shape(
    request: Request,
    preset: ModelPreset,
    schedule: Schedule,
    element_bytes: int,
    together: int = 1,
) -> CacheShape:
    """The shape of the caches of `together` pictures."""
    spec = preset.transformer
    cfg = per_scale(_cfg(request, preset), len(schedule), "--cfg")
    return CacheShape(
        layers=spec.depth,
        sequences=together * (2 if any(strength != 1 for strength in cfg) else 1),
        heads=spec.heads,
        head_dim=spec.head_dim,
        k_bytes=element_bytes,
        v_bytes=element_bytes,
    )


def _cfg(request: Request, preset: ModelPreset) -> PerScale:
    return preset.sampling.cfg if request.cfg is None else request.cfg


def planned_for(request: Request, preset: ModelPreset, asked: Budget) -> Budget | None:
    """The budget as the policy plans it; None where the policy takes none. Loads no policy that is
    given by name.

    Raises:
        UserError: unknown policy, no calibration for it, or a budget it cannot work with.
    """
    policy = DEFAULT_POLICY if request.policy is None else request.policy
    if not isinstance(policy, str):
        return planned(policy, asked) if takes_budget(policy) else None
    calibration = calibration_of(policy, preset.name)
    return plan_named(policy_and_file(policy)[0], asked, calibration)


def tokenizer_of(preset: ModelPreset, weights_dir: Path | None = None) -> Tokenizer:
    """What counts a prompt's tokens, found with the model's other files.

    Raises:
        UserError: files are missing or damaged.
    """
    from scalekv.infinity_patch.model.tokens import read_tokenizer

    return read_tokenizer(model_files(preset, weights_dir).text_encoder / "tokenizer.json")


def idle_budget(request: Request, preset: ModelPreset, dtype: str = "auto") -> Budget | None:
    """The budget, where it is certain to drop nothing from pictures of this size although it was
    not asked to hold everything; else None.

    Args:
        dtype: as for `check`.
    """
    if request.policy == FULL or request.budget == FULL:
        return None
    schedule = schedule_of(request, preset)
    element = ELEMENT_BYTES.get(dtype, max(ELEMENT_BYTES.values()))
    budget = budget_of(request, preset, schedule, element, fixed_batch(request, "cuda") or 1)
    return None if budget.evicts else budget


def _check_budget(request: Request, preset: ModelPreset, schedule: Schedule, dtype: str) -> None:
    sizes = [ELEMENT_BYTES[dtype]] if dtype in ELEMENT_BYTES else sorted(ELEMENT_BYTES.values())
    try:
        asked = budget_of(request, preset, schedule, sizes[0])
    except UserError:
        # The least that this one names is enough whatever dtype and batch will be.
        budget_of(request, preset, schedule, sizes[-1], fixed_batch(request, "cuda") or 1)
        raise
    planned_for(request, preset, asked)
    _check_stored(request, preset, schedule, asked, sizes[0])


def _check_stored(
    request: Request, preset: ModelPreset, schedule: Schedule, budget: Budget, element_bytes: int
) -> None:
    """What a policy that stores tokens in its own way cannot do.

    Raises:
        UserError: that is asked for.
    """
    constants = constants_of(request.policy, preset.name)
    if constants is None:
        return
    if request.kv_dtype != AUTO:
        raise UserError(
            f"the held cache cannot be coded and {request.kv_dtype} too",
            where="--kv-dtype",
            rule="auto with the policy coded: its bits are the budget's",
            fix="leave --kv-dtype out, or take another policy",
        )
    shape = cache_shape(request, preset, schedule, element_bytes)
    guided = shape.sequences == 2
    layer = preset.sampling.cfg_layer if request.cfg_layer is None else request.cfg_layer
    if guided and layer not in (0, (0,), [0]):
        raise UserError(
            "guidance in hidden layers leaves two halves that are the same",
            where="--cfg-layer",
            rule="the policy coded works on halves that differ to the end: guidance in the logits",
            fix="--cfg-layer 0, or another policy",
        )
    allocation_of(constants, budget, shape, guided)
