"""Plans of runs that are not made: what one would take, whether it fits, and what would.

Knows requests and footprints; loads nothing, no torch.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from pathlib import Path

from scalekv.configs.models import ModelPreset
from scalekv.configs.spec import TextSpec
from scalekv.infinity_patch.asked.request import DEFAULT_POLICY, Request
from scalekv.infinity_patch.asked.settled import (
    budget_of,
    cache_shape,
    calibration_of,
    constants_of,
    schedule_of,
)
from scalekv.infinity_patch.files.hub import model_files
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.machine.machine import BF16, of_processor
from scalekv.infinity_patch.planning.footprint import TEXT_TOKENS, Footprint, Work, footprint
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.errors import UserError
from scalekv.kv.policies.registry import entry_named, plan_named
from scalekv.kv.precision import ELEMENT_BYTES
from scalekv.kv.sizes import size_text

MOST_PICTURES = 1024
"""The largest batch that is looked for."""

FULL = "full"


@dataclass
class Planner:
    """Plans for one model, policy and device.

    Attributes:
        request: what would be asked for; of its prompts and seeds nothing is used.
        device: "cuda" or "cpu".
        dtype: of the blocks; "auto": the preset's, else what the loader would take there.
    """

    request: Request
    preset: ModelPreset
    device: str = "cuda"
    dtype: str = "auto"
    placement: Placement = field(default_factory=Placement)
    text_tokens: int = TEXT_TOKENS
    _known: dict[tuple[int, str | int | None], Footprint] = field(default_factory=dict)
    _others: dict[str, Planner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.schedule = schedule_of(self.request, self.preset)
        if self.dtype == "auto":
            fast = self.device == "cuda" or bool(of_processor() & BF16)
            usual = "bf16" if fast else "fp32"
            self.dtype = usual if self.preset.dtype == "auto" else self.preset.dtype

    @property
    def policy(self) -> str:
        """The policy's name."""
        policy = self.request.policy or DEFAULT_POLICY
        return policy if isinstance(policy, str) else policy.name

    def footprint(self, pictures: int = 1, budget: str | int | None = None) -> Footprint:
        """What so many pictures at once would take.

        Args:
            budget: instead of the request's.

        Raises:
            UserError: a budget that cannot be.
        """
        key = pictures, budget
        if key not in self._known:
            self._known[key] = footprint(self._work(pictures, budget))
        return self._known[key]

    def largest_batch(self, memory: int, budget: str | int | None = None) -> int:
        """The most pictures at once that so many bytes of memory are enough for; 0: not even one.

        Raises:
            UserError: a budget that cannot be.
        """
        return bisect_right(
            range(1, MOST_PICTURES + 1),
            memory,
            key=lambda pictures: self.footprint(pictures, budget).needed,
        )

    def largest_budget(self, memory: int, pictures: int) -> int | None:
        """The most tokens per layer that so many pictures fit with; None: not even one token.

        Raises:
            UserError: the policy takes no budget.
        """
        means = range(1, max(self.schedule.history, 1) + 1)
        fitting = bisect_right(
            means, memory, key=lambda mean: self.footprint(pictures, mean).needed
        )
        return means[fitting - 1] if fitting else None

    def unbounded(self) -> Planner:
        """The same with nothing dropped."""
        return self._with(FULL)

    def bounded(self) -> Planner:
        """The same with a policy that takes a budget: its own, or the usual one."""
        return self if self.policy != FULL else self._with(DEFAULT_POLICY)

    def _with(self, policy: str) -> Planner:
        if policy not in self._others:
            request = replace(self.request, policy=policy, budget=None)
            self._others[policy] = replace(self, request=request, _known={}, _others={})
        return self._others[policy]

    def asked(self, pictures: int, budget: str | int | None = None) -> Budget:
        """The budget before the policy makes it its own.

        Raises:
            UserError: it cannot be.
        """
        request = self.request if budget is None else replace(self.request, budget=budget)
        return budget_of(request, self.preset, self.schedule, ELEMENT_BYTES[self.dtype], pictures)

    def _work(self, pictures: int, budget: str | int | None) -> Work:
        request, name = self.request, self.policy.partition(":")[0]
        entry = entry_named(name)
        planned: Budget | None = None
        if name != FULL:
            calibration = calibration_of(self.policy, self.preset.name)
            planned = plan_named(name, self.asked(pictures, budget), calibration)
        shape = cache_shape(
            request, self.preset, self.schedule, ELEMENT_BYTES[self.dtype], pictures
        )
        return Work(
            preset=self.preset,
            schedule=self.schedule,
            budget=planned,
            pictures=pictures,
            guided=shape.sequences > pictures,
            device=self.device,
            dtype=self.dtype,
            kv_dtype=request.kv_dtype,
            note_bytes=0 if entry is None else entry.note_bytes,
            constants=constants_of(request.policy, self.preset.name),
            kv_on_host=request.kv_device == "cpu" and self.device != "cpu",
            placement=self.placement,
            text_tokens=self.text_tokens,
        )


def text_spec_of(preset: ModelPreset, weights_dir: Path | None = None) -> TextSpec | None:
    """Sizes of the text encoder: of the one that is on this machine, else what the preset says."""
    try:
        file = model_files(preset, weights_dir).text_encoder / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        names = ("num_layers", "num_heads", "d_kv", "d_ff", "vocab_size")
        return TextSpec(*(int(config[name]) for name in names))
    except (UserError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return preset.text  # what is wrong with the files is said when they are needed


def refuse_what_cannot_fit(planner: Planner, pictures: int, memory: int, of: str) -> None:
    """Refuses a run that memory is too small for, naming the nearest one that it is enough for.

    Args:
        memory: bytes of `of`, "NVIDIA H100" or "this machine".

    Raises:
        UserError: it cannot fit.
    """
    plan = planner.footprint(pictures)
    if plan.needed <= memory:
        return
    together = "1 picture" if pictures == 1 else f"{pictures} pictures at once"
    raise UserError(
        f"{together} would take {size_text(plan.needed)} of the {size_text(memory)} of {of}",
        where=f"{planner.preset.name}, policy {planner.policy}",
        rule=f"the fullest stage is: {fullest(plan)}; scalekv plan shows every part",
        fix=_nearest(planner, pictures, memory) + ", or --force to try anyway",
    )


def fullest(plan: Footprint) -> str:
    """The stage with the highest peak."""
    return max(plan.totals, key=plan.totals.__getitem__)


def _nearest(planner: Planner, pictures: int, memory: int) -> str:
    ways = []
    batch = planner.largest_batch(memory) if pictures > 1 else 0
    if batch:
        ways.append(f"--batch-size {batch}")
    if planner.policy == FULL:
        mean = planner.bounded().largest_budget(memory, pictures)
        if mean is not None:
            ways.append(f"--policy {DEFAULT_POLICY} --budget {mean} (tokens per layer)")
    elif (mean := planner.largest_budget(memory, pictures)) is not None:
        ways.append(f"--budget {mean} (tokens per layer)")
    if not ways:
        ways.append(_lighter(planner, memory))
    return ", or ".join(ways)


def _lighter(planner: Planner, memory: int) -> str:
    """What makes a single picture with the smallest budget fit, where that does not do."""
    if planner.device == "cuda":
        for options, changes in (
            ("--text-device cpu", {"text_device": "cpu"}),
            ("--offload", {"offload": True}),
            ("--offload --text-device cpu", {"offload": True, "text_device": "cpu"}),
        ):
            placement = replace(planner.placement, **changes)
            lighter = replace(planner, placement=placement, _known={}, _others={})
            if lighter.footprint(1).needed <= memory:
                return f"{options} with one picture at a time"
    return "a smaller model, or another machine"
