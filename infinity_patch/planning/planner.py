"""Plans runs without making them: the memory one takes, whether it fits, and what would fit.

Knows settled requests and footprints; loads nothing, no torch.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scalekv.configs.models import ModelPreset
from scalekv.configs.spec import TextSpec
from scalekv.configs.values import AUTO
from scalekv.infinity_patch.asked.request import DEFAULT_POLICY
from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.files.header import weights_in
from scalekv.infinity_patch.files.hub import model_files
from scalekv.infinity_patch.files.text_config import read_text_config
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.planning.footprint import TEXT_TOKENS, Footprint, Work, footprint
from scalekv.infinity_patch.planning.lighter import BY_OPTIONS
from scalekv.kv.budgets.budget import FULL
from scalekv.kv.errors import BudgetTooSmall, UserError
from scalekv.kv.sizes import size_text

MOST_PICTURES = 1024
"""The largest batch that is looked for."""


class DoesNotFit(UserError):
    """Memory is too small for a run, by plan."""


@dataclass
class Planner:
    """Plans for one settled request, and for what differs from it in batch, budget or policy.

    Attributes:
        settled: of its prompts and seeds nothing is used.
        placement: of the model's parts, as they are loaded.
        text_tokens: of the longest prompt.
        text: sizes of the text encoder that is on this machine; None: as the preset says.
    """

    settled: Settled
    placement: Placement = field(default_factory=Placement)
    text_tokens: int = TEXT_TOKENS
    text: TextSpec | None = None
    _known: dict[tuple[int, str | int | None], Footprint] = field(default_factory=dict)
    _others: dict[str, Planner] = field(default_factory=dict)
    _placed: dict[Placement, Planner] = field(default_factory=dict)

    def footprint(self, pictures: int | None = None, budget: str | int | None = None) -> Footprint:
        """What so many pictures at once would take.

        Args:
            pictures: None: as many as are certain to be generated together.
            budget: instead of the request's.

        Raises:
            UserError: a budget that cannot be.
        """
        key = self.settled.together if pictures is None else pictures, budget
        if key not in self._known:
            work = work_of(self.settled.allotted(*key), self.placement, self.text_tokens, self.text)
            self._known[key] = footprint(work)
        return self._known[key]

    def largest_batch(self, memory: int, budget: str | int | None = None) -> int:
        """The most pictures at once that so many bytes of memory are enough for; 0: not even one.

        Raises:
            UserError: a budget that cannot be, however few pictures there are.
        """

        def needed(pictures: int) -> int:
            try:
                return self.footprint(pictures, budget).needed
            except BudgetTooSmall:  # in bytes, which so many pictures share
                return memory + 1

        return bisect_right(range(1, MOST_PICTURES + 1), memory, key=needed)

    def largest_budget(self, memory: int, pictures: int) -> int | None:
        """The most tokens per layer that so many pictures fit with; None: not even the least that
        the policy works with.

        Raises:
            UserError: the policy takes no budget.
        """

        def needed(mean: int) -> int:
            try:
                return self.footprint(pictures, mean).needed
            except BudgetTooSmall:  # for the policy: what takes less memory is no use
                return 0

        means = range(1, max(self.settled.schedule.history, 1) + 1)
        fitting = bisect_right(means, memory, key=needed)
        return means[fitting - 1] if fitting and needed(means[fitting - 1]) else None

    def placed(self, **changes: Any) -> Planner:
        """The same with some of its placement changed."""
        placement = replace(self.placement, **changes)
        if placement not in self._placed:
            self._placed[placement] = Planner(self.settled, placement, self.text_tokens, self.text)
        return self._placed[placement]

    def unbounded(self) -> Planner:
        """The same with nothing dropped."""
        return self._with(FULL)

    def bounded(self) -> Planner:
        """The same with a policy that takes a budget: its own, or the usual one."""
        return self if self.settled.policy_name != FULL else self._with(DEFAULT_POLICY)

    def _with(self, policy: str) -> Planner:
        if policy not in self._others:
            self._others[policy] = Planner(
                self.settled.under(policy), self.placement, self.text_tokens, self.text
            )
        return self._others[policy]


def work_of(
    settled: Settled,
    placement: Placement,
    text_tokens: int = TEXT_TOKENS,
    text: TextSpec | None = None,
) -> Work:
    """What the memory of a settled request depends on.

    Args:
        text: as for `Planner`.
    """
    preset = settled.preset
    return Work(
        preset=preset if text is None else replace(preset, text=text),
        schedule=settled.schedule,
        picture=settled.picture,
        budget=settled.planned,
        pictures=settled.together,
        guided=settled.guided,
        device=settled.device,
        dtype=settled.dtype,
        kv_dtype=settled.request.kv_dtype,
        note_bytes=settled.note_bytes,
        constants=settled.constants,
        kv_on_host=settled.request.kv_device == "cpu" and settled.device != "cpu",
        placement=placement,
        text_tokens=text_tokens,
        again=settled.request.pictures > settled.together,
    )


def text_spec_of(preset: ModelPreset, weights_dir: Path | None = None) -> TextSpec | None:
    """Sizes of the text encoder: of the one that is on this machine, else what the preset says."""
    try:
        return read_text_config(model_files(preset, weights_dir).text_encoder).spec
    except UserError:
        return preset.text  # what is wrong with the files is said when they are needed


def stored_weights(preset: ModelPreset, weights_dir: Path | None = None) -> str | None:
    """How the transformer's file on this machine has its weights in 8 bits, "int8" or "fp8"; None:
    it has none, or there is no file."""
    try:
        return weights_in(model_files(preset, weights_dir).transformer)
    except UserError:
        return None


def with_stored_weights(
    placement: Placement, preset: ModelPreset, weights_dir: Path | None = None
) -> Placement:
    """The same, with weights in 8 bits said where nobody chose and the file has them so."""
    if placement.weights != AUTO:
        return placement
    return replace(placement, weights=stored_weights(preset, weights_dir) or AUTO)


def refuse_what_cannot_fit(
    planner: Planner, memory: int, of: str, *, cache_is_given: bool = False
) -> None:
    """Refuses a run that memory is too small for, naming the nearest one that it is enough for.

    Args:
        memory: bytes of `of`, "NVIDIA H100" or "this machine".
        cache_is_given: policy and budget are not the caller's to choose.

    Raises:
        DoesNotFit: it cannot fit.
    """
    plan = planner.footprint()
    if plan.needed <= memory:
        return
    raise DoesNotFit(
        f"{run_text(plan)} would take {size_text(plan.needed)} of the {size_text(memory)} of {of}",
        where=f"{planner.settled.preset.name}, policy {planner.settled.policy_name}",
        rule=f"the fullest stage is: {fullest(plan)}; scalekv plan shows every part",
        fix=_nearest(planner, plan.work.pictures, memory, cache_is_given),
    )


def run_text(plan: Footprint) -> str:
    """What a plan is of: "1 picture", "8 pictures at once"."""
    pictures = plan.work.pictures
    return "1 picture" if pictures == 1 else f"{pictures} pictures at once"


def fullest(plan: Footprint) -> str:
    """The stage with the highest peak."""
    return max(plan.totals, key=plan.totals.__getitem__)


def _nearest(planner: Planner, pictures: int, memory: int, cache_is_given: bool) -> str:
    ways = []
    if planner.placement.keep_text_encoder is None:  # kept, though nobody asked for it
        freed = planner.placed(keep_text_encoder=False)
        if freed.footprint().needed <= memory:
            ways.append("--free-text-encoder")
    batch = planner.largest_batch(memory) if pictures > 1 else 0
    if batch:
        ways.append(f"--batch-size {batch}")
    if not cache_is_given:
        full = planner.settled.policy_name == FULL
        mean = planner.bounded().largest_budget(memory, pictures)
        if mean is not None:
            policy = f"--policy {DEFAULT_POLICY} " if full else ""
            ways.append(f"{policy}--budget {mean} (tokens per layer)")
    if not ways:
        ways.append(_lighter(planner, memory))
    return ", or ".join(ways)


def _lighter(planner: Planner, memory: int) -> str:
    """Options that make a single picture fit."""
    if planner.settled.device == "cuda":
        for options, changes in BY_OPTIONS[1:]:
            if planner.placed(**changes).footprint(1).needed <= memory:
                return f"{options} with one picture at a time"
    return "a smaller model, or another machine"
