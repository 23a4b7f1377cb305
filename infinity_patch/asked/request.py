"""What a person asks for, and everything that can be refused before weights are read. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from operator import index
from typing import Any

from scalekv.configs.values import AUTO as AUTO
from scalekv.configs.values import MOST_SEED as MOST_SEED
from scalekv.kv.budgets.asked import BudgetLike
from scalekv.kv.budgets.budget import Drafters
from scalekv.kv.errors import UserError
from scalekv.kv.policies.policy import Policy

PerScale = float | Sequence[float]
DEFAULT_POLICY = "scalekv"
DEFAULT_BUDGET = "10%"
LEAST_TAU = 1e-3  # far below it, logits over temperature overflow


@dataclass(frozen=True)
class Request:
    """Pictures to generate.

    prompts: one or several, a string is one; num_images: pictures of each. Picture i of all
    (prompts outermost) has the seed `seed` + i, or `seeds[i]` where seeds are given. policy and
    budget are "scalekv" and "10%" unless given, or those of the `with patched(...)` block the
    pictures are generated in; kv_dtype and kv_device are as there.
    cfg, tau: one number, or one per scale; None takes the preset's. cfg_layer: where guidance
    mixes, 0 for the logits, or one or several -n for the hidden states after block depth - n.
    stop_after: the last scale to draw, from 1; finer ones are not drawn, and the sum so far is
    decoded at the picture's size. None draws all.
    ratio is width:height. positive_prompt: add words for faces to prompts that mention people.
    batch_size: the most pictures that go through the model together, or "auto", as many as free
    memory takes. reproducible: pictures run one at a time whatever batch_size says, so that a seed
    gives the same bits alone and among others; None: on a CPU they do, elsewhere not.
    """

    prompts: Sequence[str]
    policy: str | Policy | None = None
    budget: BudgetLike | None = None
    seed: int = 0
    num_images: int = 1
    cfg: PerScale | None = None
    tau: PerScale | None = None
    top_p: float | None = None
    ratio: str = "1:1"
    pixels: str | None = None
    negative: str | None = None
    truncate: bool = False
    batch_size: int | str = 1
    reproducible: bool | None = None
    cfg_layer: int | Sequence[int] | None = None
    positive_prompt: bool = False
    drafters: Drafters | None = None
    kv_dtype: str = "auto"
    kv_device: str = "auto"
    seeds: Sequence[int] | None = None
    stop_after: int | None = None

    def __post_init__(self) -> None:
        """Takes what Python has for the same: one string, a list, numbers of numpy.

        Raises:
            UserError: prompts that are no texts, or a seed or count that is no whole number.
        """
        prompts = (self.prompts,) if isinstance(self.prompts, str) else self.prompts
        self._settle("prompts", _texts(prompts))
        for name in ("seed", "num_images"):
            self._settle(name, _whole(getattr(self, name), name))
        if self.stop_after is not None:
            self._settle("stop_after", _whole(self.stop_after, "stop_after"))
        if self.seeds is not None:
            self._settle("seeds", tuple(_whole(seed, "seeds") for seed in self.seeds))
        for name in ("cfg", "tau", "top_p", "cfg_layer", "batch_size"):
            self._settle(name, _number_or_tuple(getattr(self, name)))

    def _settle(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def pictures(self) -> int:
        """How many there are of all prompts."""
        return len(self.prompts) * self.num_images

    @property
    def in_common(self) -> Request:
        """What pictures that can be drawn together have in common: all but prompts and seeds."""
        return replace(self, prompts=("",), num_images=1, seed=0, seeds=None)

    def seed_of(self, index: int) -> int:
        """The seed of picture `index`, from 0."""
        return self.seed + index if self.seeds is None else self.seeds[index]

    @property
    def texts(self) -> list[str]:
        """All that is encoded for its pictures, each once."""
        own = [self.text_of(prompt) for prompt in self.prompts]
        return list(dict.fromkeys([*own, *([] if self.negative is None else [self.negative])]))

    def text_of(self, prompt: str) -> str:
        """What is encoded for a prompt."""
        return with_suffix(prompt) if self.positive_prompt else prompt


def _texts(prompts: Any) -> tuple[str, ...]:
    try:
        texts = tuple(prompts)
    except TypeError:
        texts = (prompts,)
    for text in texts:
        if not isinstance(text, str):
            raise UserError(
                f"the prompt {text!r} is no text",
                where="Request(prompts)",
                rule="a string, or several in a tuple or a list",
                fix='Request("a red apple")',
            )
    return texts


def _whole(value: Any, name: str) -> int:
    try:
        return index(value)
    except TypeError:
        raise UserError(
            f"{name} is {value!r}", where=f"Request({name})", rule="a whole number"
        ) from None


def _number_or_tuple(value: Any) -> Any:
    """A number as Python's own, several as a tuple; what is neither stays for `check` to refuse."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if value is None or isinstance(value, str):
        return value
    return tuple(map(_number_or_tuple, value)) if isinstance(value, Iterable) else value


def per_scale(value: PerScale, scales: int, where: str) -> tuple[float, ...]:
    """One value per scale from one number or a list.

    Raises:
        UserError: another number of values than scales, or one that is not finite.
    """
    values = (value,) * scales if isinstance(value, int | float) else tuple(value)
    if len(values) != scales:
        raise UserError(
            f"{len(values)} values for {scales} scales",
            where=where,
            rule="one number, or one per scale",
        )
    if not all(math.isfinite(v) for v in values):
        raise UserError(f"not a number: {value}", where=where, rule="finite numbers only")
    return tuple(float(v) for v in values)


def guidance_layers(value: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """The layers guidance mixes at, as `Guidance` takes them.

    Raises:
        UserError: positive ones, beyond the first block, or logits and hidden states together.
    """
    layers = (value,) if isinstance(value, int) else tuple(value)
    if not layers or not all(-depth <= layer <= 0 for layer in layers):
        raise UserError(
            "guidance layer " + ",".join(map(str, layers)),
            where="--cfg-layer",
            rule=f"0 for the logits, or from -1 (after the last block) to -{depth} (the first)",
            fix="--cfg-layer 0",
        )
    if 0 in layers and len(set(layers)) > 1:
        raise UserError(
            "guidance in the logits and in hidden states at once",
            where="--cfg-layer",
            rule="0 alone, or negative numbers alone",
            fix="--cfg-layer 0",
        )
    return tuple(dict.fromkeys(layers))


SUFFIX = ", seen from the front, a natural and well-formed face, smooth skin"

_PEOPLE = re.compile(
    r"\b(?:(?:wo)?m[ae]n|boys?|girls?|child(?:ren)?|persons?|people|humans?|adults?|teenagers?"
    r"|(?:grand)?(?:mother|father|son|daughter)s?|sisters?|brothers?|bab(?:y|ies)|lad(?:y|ies)"
    r"|gentlem[ae]n|workers?|employ(?:ee|er)s?|portraits?)\b",
    re.IGNORECASE,
)


def mentions_people(prompt: str) -> bool:
    """Whether a prompt speaks of a person, by whole words: a mandarin is none."""
    return _PEOPLE.search(prompt) is not None


def with_suffix(prompt: str) -> str:
    """The prompt with `SUFFIX` where it mentions people."""
    return prompt.rstrip(" .,") + SUFFIX if mentions_people(prompt) else prompt
