"""The policies known by name, with the budgets and calibrations they need. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from scalekv.kv.budgets.budget import Budget
from scalekv.kv.errors import UserError, check_one_of
from scalekv.kv.policies.policy import Policy


@dataclass(frozen=True)
class PolicyEntry:
    """A built-in policy, with what has to be known of it before torch is loaded.

    Attributes:
        path: "module:class", made without arguments.
        plan: "module:function", asked budget -> the policy's own of the same mean; "": as asked.
            A calibrated policy's takes the calibration as its second argument.
        takes_budget: whether it is held to one.
        calibration: the file of a model's folder of budgets that it works from; "": none.
        reader: "module:function", (the file's text, where) -> the calibration; where it stores,
            the file's bytes.
        stores: whether its method is how tokens are stored; see `Stores`.
        note_bytes: of its notes on one held token of one head.
    """

    path: str
    plan: str = ""
    takes_budget: bool = True
    calibration: str = ""
    reader: str = ""
    note_bytes: int = 0
    stores: bool = False


_UNIFORM, _PYRAMID = "scalekv.kv.budgets.shapes:uniform", "scalekv.kv.budgets.shapes:pyramid"


def _profiled(path: str, plan: str) -> PolicyEntry:
    """A policy whose budget goes by what a calibration measured of heads."""
    return PolicyEntry(
        f"scalekv.kv.policies.{path}",
        plan=f"scalekv.kv.budgets.head_shares:{plan}",
        calibration="attention.json",
        reader="scalekv.kv.calibration.profile:read_profile",
    )


_BUILT_IN = {
    "full": PolicyEntry("scalekv.kv.policies.full:FullPolicy", takes_budget=False),
    "scalekv": PolicyEntry("scalekv.kv.policies.scale:ScaleKVPolicy"),
    "scalekv-anchored": PolicyEntry("scalekv.kv.policies.scale_anchored:AnchoredScaleKVPolicy"),
    "scalekv-released": PolicyEntry("scalekv.kv.policies.scale_released:ReleasedScaleKVPolicy"),
    "sliding-window": PolicyEntry(
        "scalekv.kv.policies.sliding_window:SlidingWindowPolicy", plan=_UNIFORM
    ),
    "streaming-llm": PolicyEntry(
        "scalekv.kv.policies.streaming_llm:StreamingLLMPolicy", plan=_UNIFORM
    ),
    "snapkv": PolicyEntry("scalekv.kv.policies.snapkv:SnapKVPolicy", plan=_UNIFORM),
    "pyramidkv": PolicyEntry("scalekv.kv.policies.pyramidkv:PyramidKVPolicy", plan=_PYRAMID),
    "h2o": PolicyEntry("scalekv.kv.policies.h2o:H2OPolicy", plan=_UNIFORM, note_bytes=4),
    "heatkv": PolicyEntry(
        "scalekv.kv.policies.heatkv:HeatKVPolicy",
        plan="scalekv.kv.budgets.heat_order:heat_budget",
        calibration="heat-order.json",
        reader="scalekv.kv.budgets.heat_order:read_order",
    ),
    "ams-kv": _profiled("ams_kv:AMSKVPolicy", "ams_budget"),
    "hack": _profiled("hack:HACKPolicy", "hack_budget"),
    "hack-plus": _profiled("hack_plus:HACKPlusPolicy", "hack_plus_budget"),
    "adakv": _profiled("adakv:AdaKVPolicy", "adaptive_budget"),
    "coded": PolicyEntry(
        "scalekv.kv.policies.coded:CodedPolicy",
        plan="scalekv.kv.coded.plan:coded_budget",
        calibration="coded.safetensors",
        reader="scalekv.kv.coded.constants:read_constants",
        stores=True,
    ),
    "random": PolicyEntry("scalekv.kv.policies.random:RandomPolicy", plan=_UNIFORM),
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
    check_one_of(name, policy_names(), f"there is no policy named {name!r}", "policy")


def policy_named(policy: str | Policy) -> Policy:
    """The policy of that name, newly made; an object that is a policy already is returned as is.

    Files are not read here: see `scalekv.infinity_patch.asked.settled`.

    Raises:
        UserError: unknown name.
    """
    if not isinstance(policy, str):
        return policy
    check_policy_name(policy)
    name, _ = policy_and_file(policy)
    if name in _registered:
        return _registered[name]()
    instance: Policy = _loaded(_BUILT_IN[name].path)()
    return instance


def entry_named(name: str) -> PolicyEntry | None:
    """What is known of a built-in policy without loading it; None: a registered one.

    Raises:
        UserError: unknown name.
    """
    check_policy_name(name)
    return _BUILT_IN.get(name)


def stores(name: str) -> bool:
    """Whether a policy's method is how tokens are stored, so that its budget is one of bytes.

    Raises:
        UserError: unknown name.
    """
    entry = entry_named(name)
    return entry is not None and entry.stores


def check_stores(name: str, kv_dtype: str) -> None:
    """Refuses a dtype for what a policy stores in a way of its own.

    Raises:
        UserError: any but "auto".
    """
    if kv_dtype != "auto":
        raise UserError(
            f"the policy {name} stores tokens in a way of its own, not as {kv_dtype}",
            where="--kv-dtype",
            rule="auto with it: its bits are the budget's",
            fix="leave --kv-dtype out, or take another policy",
        )


def read_calibration(entry: PolicyEntry, content: str | bytes, where: str) -> Any:
    """What a calibrated policy works from, of its file's content.

    Raises:
        UserError: that is not what it should be; `where` is the file, for the message.
    """
    return _loaded(entry.reader)(content, where)


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
