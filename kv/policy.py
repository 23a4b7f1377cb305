"""What a policy is given and must answer, and the policies known by name. Knows no method and,
so that names can be checked before anything heavy is loaded, imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from scalekv.kv.budget import Budget
from scalekv.kv.errors import UserError, close_matches
from scalekv.kv.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Step:
    """Some heads of a layer, just after they attended with the queries of one scale.

    They are all heads of the layer, unless heads have capacities of their own: then a policy is
    asked once for those that hold and may keep equally many tokens.

    Attributes:
        scale: the scale just generated, from 0; never the last one.
        layer: the layer, from 0.
        heads: the heads' numbers; H below is how many they are.
        schedule: the picture's scales.
        capacity: the most tokens each head may keep for the next scale; at least 1.
        window: the most tokens of the newest map to observe with.
        q: (B, H, L, D) queries of this scale as attention uses them: normalised, scaled and
            rotated, so that the softmax scale is 1. B counts both guidance halves.
        k: (B, H, T, D) keys of everything cached, this scale's L tokens last.
        v: (B, H, T, D) values, likewise.
        positions: (B, H, T) place of each cached token among all tokens of the picture,
            ascending; None where nothing was ever dropped, so that slot t is token t.
        notes: what the policy wrote here after earlier scales of this picture, for these heads;
            empty at the first. Tensors (B, H, ...), counted with the positions' bytes.
        raw_queries: the queries of some of this scale's tokens, (W,) int64 -> (B, H, W, D), as
            the projection alone gives them: without bias, normalisation, scale and rotation.
            Computed when called; None where nobody can compute them.
        budget: of the picture, as planned; None where nothing has to be dropped.
    """

    scale: int
    layer: int
    heads: tuple[int, ...]
    schedule: Schedule
    capacity: int
    window: int
    q: Tensor
    k: Tensor
    v: Tensor
    positions: Tensor | None
    notes: dict[str, Tensor] = field(default_factory=dict)
    raw_queries: Callable[[Tensor], Tensor] | None = None
    budget: Budget | None = None

    @property
    def observers(self) -> int:
        """The most tokens to observe with, and so to keep for it: the window, unless that would
        take more than a quarter of the capacity; at least 1."""
        return min(self.window, max(self.capacity // 4, 1))


class Policy(Protocol):
    """Decides which cached tokens a layer keeps after a scale.

    An object may serve several models at once, so what it must remember between scales belongs in
    `Step.notes`. Two things are optional:

    A policy that by nature keeps everything says so with a class attribute
    `takes_budget = False`; without it a policy is held to its budget.

    A method whose layers share the tokens in a way of its own has
    `plan(self, asked: Budget) -> Budget`, which answers with its capacities at the same mean, such
    as those of `scalekv.kv.shapes`; without it the budget holds as asked for.
    """

    name: str

    def select(self, step: Step) -> Tensor | None:
        """Slots to keep: (B, H, n) int64, ascending along n, n at most `step.capacity`.

        None keeps everything, which is allowed only where T is at most the capacity.
        """
        ...


@dataclass(frozen=True)
class Entry:
    """A built-in policy, with what has to be known of it before torch is loaded.

    Attributes:
        path: "module:class", made without arguments.
        plan: "module:function", asked budget -> the policy's own of the same mean; "": as asked.
            A calibrated policy's takes the calibration as its second argument.
        takes_budget: whether it is held to one.
        calibration: the file of a model's folder of budgets that it works from; "": none.
        reader: "module:function", (text, where) -> the calibration.
        note_bytes: of its notes on one held token of one head.
    """

    path: str
    plan: str = ""
    takes_budget: bool = True
    calibration: str = ""
    reader: str = ""
    note_bytes: int = 0


_UNIFORM, _PYRAMID = "scalekv.kv.shapes:uniform", "scalekv.kv.shapes:pyramid"
_BUILT_IN = {
    "full": Entry("scalekv.kv.full:FullPolicy", takes_budget=False),
    "scalekv": Entry("scalekv.kv.scale:ScaleKVPolicy"),
    "scalekv-anchored": Entry("scalekv.kv.scale_anchored:AnchoredScaleKVPolicy"),
    "scalekv-released": Entry("scalekv.kv.scale_released:ReleasedScaleKVPolicy"),
    "sliding-window": Entry("scalekv.kv.sliding_window:SlidingWindowPolicy", plan=_UNIFORM),
    "streaming-llm": Entry("scalekv.kv.streaming_llm:StreamingLLMPolicy", plan=_UNIFORM),
    "snapkv": Entry("scalekv.kv.snapkv:SnapKVPolicy", plan=_UNIFORM),
    "pyramidkv": Entry("scalekv.kv.pyramidkv:PyramidKVPolicy", plan=_PYRAMID),
    "h2o": Entry("scalekv.kv.h2o:H2OPolicy", plan=_UNIFORM, note_bytes=4),
    "heatkv": Entry(
        "scalekv.kv.heatkv:HeatKVPolicy",
        plan="scalekv.kv.heat:heat_budget",
        calibration="heat-order.json",
        reader="scalekv.kv.heat:read_order",
    ),
    "random": Entry("scalekv.kv.chance:RandomPolicy", plan=_UNIFORM),
}
_registered: dict[str, Callable[[], Policy]] = {}


def register(name: str, factory: Callable[[], Policy]) -> None:
    """Makes a policy known by name; `factory` is called once for each use.

    Raises:
        UserError: the name is taken.
    """
    if name in policy_names():
        raise UserError(f"a policy named {name!r} exists already", fix="register another name")
    _registered[name] = factory


def policy_names() -> tuple[str, ...]:
    """Every known name, built-in ones first."""
    return (*_BUILT_IN, *_registered)


def policy_and_file(text: str) -> tuple[str, str | None]:
    """A policy's name and the calibration file it was given with: "heatkv:order.json"."""
    name, colon, file = text.partition(":")
    return name, file if colon else None


def check_policy_name(text: str) -> None:
    """Refuses an unknown policy without loading any; `text` may name its calibration file too.

    Raises:
        UserError: no policy has this name; close names are listed.
    """
    name, _ = policy_and_file(text)
    if name not in policy_names():
        raise UserError(
            f"there is no policy named {name!r}",
            where="policy",
            rule=f"policies are {', '.join(policy_names())}",
            fix=close_matches(name, policy_names()),
        )


def policy_named(policy: str | Policy) -> Policy:
    """The policy of that name, newly made; an object that is a policy already is returned as is.

    Files are not read here: see `scalekv.infinity_patch.policies`.

    Raises:
        UserError: unknown name.
    """
    if not isinstance(policy, str):
        return policy
    check_policy_name(policy)
    name, _ = policy_and_file(policy)
    if name in _registered:
        return _registered[name]()
    made: Policy = _loaded(_BUILT_IN[name].path)()
    return made


def entry_named(name: str) -> Entry | None:
    """What is known of a built-in policy without loading it; None: a registered one.

    Raises:
        UserError: unknown name.
    """
    check_policy_name(name)
    return _BUILT_IN.get(name)


def read_calibration(entry: Entry, text: str, where: str) -> Any:
    """What a calibrated policy works from, of its file's text.

    Raises:
        UserError: the text is not what it should be; `where` is the file, for the message.
    """
    return _loaded(entry.reader)(text, where)


def plan_named(name: str, asked: Budget, calibration: Any = None) -> Budget | None:
    """As `planned`, of a policy by name and without torch; None: it takes no budget.

    Args:
        calibration: what `read_calibration` gave, for a policy that needs one.

    Raises:
        UserError: unknown name, or the method cannot work with this budget.
    """
    entry = entry_named(name)
    if entry is None:
        policy = policy_named(name)
        return planned(policy, asked) if takes_budget(policy) else None
    if not entry.takes_budget:
        return None
    if not entry.plan:
        return asked
    plan = _loaded(entry.plan)
    return _same_mean(name, asked, plan(asked, calibration) if entry.calibration else plan(asked))


def planned(policy: Policy, asked: Budget) -> Budget:
    """The budget a policy works with: the one asked for, or its own of the same mean."""
    plan: Callable[[Budget], Budget] | None = getattr(policy, "plan", None)
    if plan is None:
        entry = _BUILT_IN.get(policy.name)
        if entry is None or not entry.plan:
            return asked
        plan = _loaded(entry.plan)
    return _same_mean(policy.name, asked, plan(asked))


def _same_mean(name: str, asked: Budget, budget: Budget) -> Budget:
    same = [(b.schedule, b.layers, b.mean, b.window) for b in (asked, budget)]
    assert same[0] == same[1], f"{name} planned {same[1]}, asked for was {same[0]}"
    return budget


def _loaded(path: str) -> Any:
    module, attribute = path.split(":")
    return getattr(import_module(module), attribute)


def takes_budget(policy: Policy) -> bool:
    """Whether the policy is held to a budget (False: it keeps everything)."""
    entry = _BUILT_IN.get(policy.name)
    own: bool = getattr(policy, "takes_budget", entry is None or entry.takes_budget)
    return own
