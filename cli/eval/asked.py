"""From the options of `scalekv eval` to captions and caches that are known to make sense, before
any weight is read. Knows options and protocols; draws nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalekv.cli import engine
from scalekv.cli.choices import FULL, Choices, Options, choose
from scalekv.cli.compare.run import listed
from scalekv.cli.plan.room import check_room, target_of
from scalekv.configs.models import ModelPreset, model_named
from scalekv.configs.settings import Settings
from scalekv.configs.values import AUTO
from scalekv.infinity_patch.evaluation.captions import Captions, coco_captions, read_captions
from scalekv.infinity_patch.evaluation.protocols import Protocol, protocol_named
from scalekv.infinity_patch.evaluation.rows import Part
from scalekv.infinity_patch.evaluation.variants import FULL_CACHE, CacheVariant, cache_variants
from scalekv.kv.errors import UserError, check_one_of
from scalekv.kv.policies.registry import check_policy_name

if TYPE_CHECKING:
    from scalekv.infinity_patch.asked.settled import Settled

NONE = "none"
NETWORK_NAMES = ("lpips", "fid", "features")


@dataclass(frozen=True)
class EvaluationAsked:
    """What was asked for, as it was typed; see the command's help."""

    protocol: str
    captions: Path | None
    limit: int | None
    policies: Sequence[str]
    budgets: Sequence[str]
    kv_dtypes: Sequence[str]
    measures: Sequence[str]
    agreement: bool
    part: Part | None
    out: Path
    typed: Mapping[str, Any]

    @property
    def networks(self) -> tuple[str, ...] | None:
        """The networks that were named; None: those that are here.

        Raises:
            UserError: one that there is not.
        """
        words = words_named(self.measures)
        if not words:
            return None
        for word in words:
            check_one_of(word, (*NETWORK_NAMES, NONE), f"no measure {word!r}", "--measure")
        if NONE in words and len(words) > 1:
            raise UserError("none and others", where="--measure", rule="none stands alone")
        return () if NONE in words else tuple(words)


@dataclass(frozen=True)
class EvaluationSettled:
    """What a run is to do: how each variant is drawn, `FULL_CACHE` first, how many of the captions,
    and which networks look; None: those that are here."""

    protocol: Protocol
    networks: tuple[str, ...] | None
    choices: Choices
    captions: Captions
    limit: int
    settled: Mapping[CacheVariant, Settled]


def settle_evaluation(asked: EvaluationAsked) -> EvaluationSettled:
    """Settles what was asked for. Fetches COCO's captions where no file is named.

    Raises:
        UserError: the first thing found wrong.
    """
    protocol = protocol_named(asked.protocol)
    networks = asked.networks
    chosen = Settings().get("model", asked.typed["model"])
    preset = model_named(chosen.value, chosen.origin)
    own = {"policy": FULL, "budget": FULL, "kv_dtype": AUTO, "truncate": True}
    own |= {"positive_prompt": False, "reproducible": True}
    choices = choose(Options((), {**asked.typed, **_sampling(asked, protocol, preset), **own}))
    captions = coco_captions() if asked.captions is None else read_captions(asked.captions)
    limit = min(asked.limit or protocol.pictures, len(captions.texts))
    variants = cache_variants(
        words_named(asked.policies) or protocol.policies,
        words_named(asked.budgets) or protocol.budgets_for(preset),
        words_named(asked.kv_dtypes) or (AUTO,),
    )
    plain = replace(choices.request, num_images=1, negative=None, cfg_layer=None)
    choices, drawn = settle_variants(
        replace(choices, request=plain), (FULL_CACHE, *variants), captions.texts[:limit]
    )
    return EvaluationSettled(protocol, networks, choices, captions, limit, drawn)


def settle_variants(
    choices: Choices, variants: Iterable[CacheVariant], prompts: Sequence[str]
) -> tuple[Choices, dict[CacheVariant, Settled]]:
    """How each variant is drawn, each once, and the choices with a placement that all fit with.

    Args:
        prompts: the full cache is settled with all of them, the others with the first.

    Raises:
        UserError: the first thing found wrong, or what cannot fit.
    """
    variants = list(dict.fromkeys(variants))
    for variant in variants:
        check_policy_name(variant.policy)
    target, placement = target_of(choices.device), choices.placement
    settled = {}
    for variant in variants:
        request = replace(
            choices.request,
            prompts=tuple(prompts if variant == FULL_CACHE else prompts[:1]),
            policy=variant.policy,
            budget=variant.budget,
            kv_dtype=variant.kv_dtype,
            batch_size=1,
        )
        found = engine.check(
            request, choices.preset, choices.weights_dir, choices.dtype, target.device
        )
        if not choices.force:
            placement = check_room(
                found, target, placement, choices.weights_dir, cache_is_given=True
            )
        settled[variant] = found
    return replace(choices, placement=placement), settled


def _sampling(asked: EvaluationAsked, protocol: Protocol, preset: ModelPreset) -> dict[str, Any]:
    """What was typed, and else what the protocol says."""
    says = {
        "seed": str(protocol.seed),
        "cfg": protocol.cfg,
        "tau": protocol.tau,
        "top_p": protocol.top_p,
        "ratio": protocol.ratio,
        "pixels": protocol.pixels_for(preset),
    }
    typed = {name: asked.typed[name] for name in says}
    return {name: says[name] if typed[name] is None else typed[name] for name in says}


def words_named(several: Sequence[str]) -> list[str]:
    """The words of options that may hold several, each once."""
    return [word for word in listed(several) if word is not None]
