"""A request settled for a model, a device and a dtype: everything that follows from it, once.

Knows presets, schedules and budgets; loads nothing, no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scalekv.configs.models import ModelPreset
from scalekv.infinity_patch.asked.budgets import ReadBudget, read_budget
from scalekv.infinity_patch.asked.policies import calibration_of, name_of, plan_of_policy
from scalekv.infinity_patch.asked.request import (
    AUTO,
    DEFAULT_BUDGET,
    DEFAULT_POLICY,
    LEAST_TAU,
    Request,
    guidance_layers,
    per_scale,
)
from scalekv.infinity_patch.loading.placement import check_device, check_dtype
from scalekv.infinity_patch.machine.machine import BF16, device_memory, of_processor
from scalekv.infinity_patch.schedules import class_in_pixels, schedule_for
from scalekv.kv.budgets.asked import BudgetLike
from scalekv.kv.budgets.budget import FULL, Budget
from scalekv.kv.errors import UserError
from scalekv.kv.memory.predicted import CacheShape, stored_bytes_of
from scalekv.kv.policies.policy import Policy
from scalekv.kv.policies.registry import check_stores, entry_named
from scalekv.kv.precision import ELEMENT_BYTES, check_kv_device, check_kv_dtype, precision_of
from scalekv.kv.schedule import Schedule

if TYPE_CHECKING:
    from scalekv.kv.coded.constants import Constants


@dataclass(frozen=True)
class Settled:
    """What a request comes to. Made by `settle`, and handed on to whoever checks, plans, tells or
    generates; prompts and seeds are left as the request has them.

    Attributes:
        request: what was asked for.
        preset: the model's.
        device: type of the device, "cpu", "cuda" or "mps".
        dtype: of the matrix products inside the blocks, "fp32", "bf16" or "fp16".
        schedule: the scales that are drawn.
        picture: all scales of pictures of this size; more than are drawn with `stop_after`.
        cfg, tau: guidance strength and temperature of each scale that is drawn.
        cfg_layers: where guidance mixes, as `Guidance` takes them.
        top_p: the nucleus; 0: off.
        calibration: what the policy works from; None: nothing.
        read: the budget as it was read, before it was allotted.
        asked: the budget as asked for, allotted to layers and scales.
        planned: the budget as the policy plans it; None where the policy takes none.
        batch: the most pictures at once, for all of which together a budget in bytes is; None: as
            many as free memory takes.
    """

    request: Request
    preset: ModelPreset
    device: str
    dtype: str
    schedule: Schedule
    picture: Schedule
    cfg: tuple[float, ...]
    tau: tuple[float, ...]
    cfg_layers: tuple[int, ...]
    top_p: float
    calibration: Any
    read: ReadBudget
    asked: Budget
    planned: Budget | None
    batch: int | None

    @property
    def policy(self) -> str | Policy:
        """The policy, as it was given."""
        return _policy(self.request)

    @property
    def policy_name(self) -> str:
        """What the policy is called."""
        return name_of(self.policy)

    @property
    def note_bytes(self) -> int:
        """Of the policy's notes on one held token of one head, as far as they are known."""
        entry = entry_named(self.policy_name) if isinstance(self.policy, str) else None
        return 0 if entry is None else entry.note_bytes

    @property
    def constants(self) -> Constants | None:
        """Of a policy that stores tokens by them, whose budget is one of bytes; None: of others."""
        found = self.calibration if isinstance(self.policy, str) else self.policy
        found = getattr(found, "constants", found)
        if found is None:  # numpy is for coded caches alone; a refusal does not wait for it
            return None
        from scalekv.kv.coded.constants import Constants

        return found if isinstance(found, Constants) else None

    @property
    def guided(self) -> bool:
        """Whether every picture has an unconditional half."""
        return _guided(self.cfg)

    @property
    def together(self) -> int:
        """Pictures at once that are certain; 1 where free memory decides."""
        return self.batch or 1

    @property
    def idle(self) -> bool:
        """Whether the budget drops nothing although it was not asked to hold everything."""
        return FULL not in (self.request.policy, self.request.budget) and not self.asked.evicts

    @property
    def shape(self) -> CacheShape:
        """Of the caches of `together` pictures."""
        return _shape(self.preset, self.cfg, self.dtype, self.together)

    def one_at_a_time_on(self, device: str) -> bool:
        """Whether every picture is a batch of its own on a type of device, whatever batch size was
        asked for."""
        return _one_at_a_time(self.request, device)

    def of(self, request: Request) -> Settled:
        """The same for a request that differs in prompts, seeds, number of pictures and what is
        said about batches only."""
        batch = _batch(request, self.device, self.read)
        return replace(self.allotted(batch or 1), request=request, batch=batch)

    def on(self, device: str, dtype: str) -> Settled:
        """The same where it turns out to run, on a type of device and in a dtype.

        Raises:
            UserError: a budget in bytes that is too small there.
        """
        if (device, dtype) == (self.device, self.dtype):
            return self
        moved = replace(self, device=device, dtype=dtype)
        batch = _batch(self.request, device, self.read)
        if self.read.in_bytes:
            moved = moved._with(self.read, batch or 1)
        return replace(moved, batch=batch)

    def allotted(self, pictures: int, budget: BudgetLike | None = None) -> Settled:
        """The same with so many pictures at once.

        Args:
            budget: instead of the one asked for.

        Raises:
            UserError: a budget that cannot be.
        """
        if budget is None:
            if self.read.in_bytes and pictures != self.together:
                return self._with(self.read, pictures)
            return replace(self, batch=pictures)
        read = _read(replace(self.request, budget=budget), self.preset)
        return self._with(read, pictures)

    def under(self, policy: str) -> Settled:
        """The same under another policy, and the usual budget.

        Raises:
            UserError: no calibration for it, or a budget that it cannot work with.
        """
        request = replace(self.request, policy=policy, budget=None)
        return settle(request, self.preset, self.device, self.dtype)

    def _with(self, read: ReadBudget, pictures: int) -> Settled:
        shape = _shape(self.preset, self.cfg, self.dtype, pictures)
        asked = _allotment(read, self.request, shape, self.dtype, self.schedule, self.picture)
        planned = plan_of_policy(self.policy, asked, self.calibration)
        return replace(self, read=read, asked=asked, planned=planned, batch=pictures)


def settle(
    request: Request, preset: ModelPreset, device: str = "auto", dtype: str = "auto"
) -> Settled:
    """Settles a request; refuses what cannot be of all but its prompts and seeds.

    Args:
        device: a device's name; "auto": CUDA where NVIDIA's driver knows a device, else the CPU.
        dtype: as for `load`; "auto" as that decides it.

    Raises:
        UserError: the first thing found wrong, with the rule and the fix.
    """
    check_device(device, "--device")
    check_dtype(dtype, "--dtype")
    check_kv_dtype(request.kv_dtype)
    check_kv_device(request.kv_device)
    picture = schedule_of(request, preset)
    schedule = _drawn(picture, request.stop_after)
    if request.batch_size != AUTO and not (
        isinstance(request.batch_size, int) and request.batch_size >= 1
    ):
        raise UserError(
            f"batch size {request.batch_size!r}",
            where="--batch-size",
            rule="a whole number of at least 1, or auto",
        )
    sampling, scales = preset.sampling, len(picture)
    cfg = per_scale(sampling.cfg if request.cfg is None else request.cfg, scales, "--cfg")
    cfg = cfg[: len(schedule)]
    if request.negative is not None and not _guided(cfg):
        raise UserError(
            "guidance is off, so that a negative prompt would do nothing",
            where="--negative",
            rule="guidance leads away from the negative prompt, by --cfg; at 1 it is off",
            fix="leave out --negative, or choose --cfg above 1",
        )
    place = device_type(device)
    dtype = dtype_on(place, dtype, preset)
    read = _read(request, preset)
    batch = _batch(request, place, read)
    shape = _shape(preset, cfg, dtype, batch or 1)
    asked = _allotment(read, request, shape, dtype, schedule, picture)
    calibration = calibration_of(_policy(request), preset.name)
    planned = plan_of_policy(_policy(request), asked, calibration)
    tau = per_scale(sampling.tau if request.tau is None else request.tau, scales, "--tau")
    if min(tau) < LEAST_TAU:
        raise UserError(f"temperature {min(tau):g}", where="--tau", rule=f"at least {LEAST_TAU:g}")
    layer = sampling.cfg_layer if request.cfg_layer is None else request.cfg_layer
    cfg_layers = guidance_layers(layer, preset.transformer.depth)
    top_p = sampling.top_p if request.top_p is None else request.top_p
    if not 0 <= top_p <= 1:
        raise UserError(f"top-p {top_p:g}", where="--top-p", rule="between 0 and 1; 0 turns it off")
    settled = Settled(
        request=request,
        preset=preset,
        device=place,
        dtype=dtype,
        schedule=schedule,
        picture=picture,
        cfg=cfg,
        tau=tau[: len(schedule)],
        cfg_layers=cfg_layers,
        top_p=top_p,
        calibration=calibration,
        read=read,
        asked=asked,
        planned=planned,
        batch=batch,
    )
    _check_stored(settled)
    return settled


def _check_stored(settled: Settled) -> None:
    """What a policy that stores tokens in its own way cannot do.

    Raises:
        UserError: that is asked for.
    """
    if settled.constants is None or settled.planned is None:
        return
    check_stores(settled.policy_name, settled.request.kv_dtype)
    if settled.guided and settled.cfg_layers != (0,):
        raise UserError(
            "guidance in hidden layers leaves two halves that are the same",
            where="--cfg-layer",
            rule=f"the policy {settled.policy_name} codes halves that differ to the end: guidance "
            "in the logits",
            fix="--cfg-layer 0, or another policy",
        )
    from scalekv.kv.coded.plan import allocation_of

    allocation_of(settled.constants, settled.planned, settled.shape, settled.guided)


def schedule_of(request: Request, preset: ModelPreset) -> Schedule:
    """The schedule the pictures are generated with.

    Raises:
        UserError: a ratio or pixel class that does not exist, or that the model was not made for.
    """
    if preset.ratios and request.ratio not in preset.ratios:
        schedule_for(request.ratio, preset.pixels)  # an unknown ratio has its own message
        raise UserError(
            f"{preset.name} was not made for the ratio {request.ratio}",
            where="--ratio",
            rule="its ratios are " + ", ".join(preset.ratios),
            fix=f"--ratio {preset.ratios[0]}, or another model",
        )
    asked = request.pixels or preset.pixels
    if preset.ratios and asked not in preset.pixel_classes:
        schedule_for(request.ratio, asked)
        raise UserError(
            f"{preset.name} was not made for the pixel class {asked}",
            where="--pixels",
            rule="its pictures are "
            + " or ".join(class_in_pixels(preset, name) for name in preset.pixel_classes),
            fix="leave --pixels out, or take another model",
        )
    return schedule_for(request.ratio, asked)


def _drawn(picture: Schedule, stop_after: int | None) -> Schedule:
    """The scales of a picture that are drawn.

    Raises:
        UserError: there is no such scale.
    """
    if stop_after is None:
        return picture
    if not 1 <= stop_after <= len(picture):
        raise UserError(
            f"scale {stop_after}",
            where="--stop-after",
            rule=f"pictures of this size have scales 1 to {len(picture)}",
            fix=f"--stop-after {min(max(stop_after, 1), len(picture))}",
        )
    return Schedule.of(picture.scales[:stop_after])


def device_type(name: str) -> str:
    """The type of a device by its name, as far as that is known without torch."""
    if name == "auto":
        return "cpu" if device_memory(name) is None else "cuda"
    return name.partition(":")[0]


def dtype_on(device: str, dtype: str, preset: ModelPreset) -> str:
    """The dtype that the loader computes in on a type of device."""
    if dtype == "auto":
        dtype = preset.dtype
    if dtype == "auto":
        fast = device == "cuda" or (device == "cpu" and bool(of_processor() & BF16))
        dtype = "bf16" if fast else "fp32"
    return dtype


def _policy(request: Request) -> str | Policy:
    return DEFAULT_POLICY if request.policy is None else request.policy


def _read(request: Request, preset: ModelPreset) -> ReadBudget:
    budget = DEFAULT_BUDGET if request.budget is None else request.budget
    return read_budget(budget, preset.transformer.depth, preset.name, request.drafters)


def _allotment(
    read: ReadBudget,
    request: Request,
    shape: CacheShape,
    dtype: str,
    schedule: Schedule,
    picture: Schedule,
) -> Budget:
    precision = precision_of(request.kv_dtype, dtype)
    return read.on(schedule, stored_bytes_of(shape, precision, schedule), picture)


def _guided(cfg: Sequence[float]) -> bool:
    return any(strength != 1 for strength in cfg)


def _shape(preset: ModelPreset, cfg: Sequence[float], dtype: str, pictures: int) -> CacheShape:
    spec, element = preset.transformer, ELEMENT_BYTES[dtype]
    sequences = pictures * (2 if _guided(cfg) else 1)
    return CacheShape(spec.depth, sequences, spec.heads, spec.head_dim, element, element)


def _one_at_a_time(request: Request, device: str) -> bool:
    return device == "cpu" if request.reproducible is None else request.reproducible


def _batch(request: Request, device: str, read: ReadBudget) -> int | None:
    """See `Settled.batch`. A budget in bytes is for all pictures of a batch together, so that with
    no size given each picture has it to itself."""
    if _one_at_a_time(request, device):
        return 1
    if request.batch_size == AUTO:
        return 1 if read.in_bytes else None
    assert isinstance(request.batch_size, int), request.batch_size
    return request.batch_size
