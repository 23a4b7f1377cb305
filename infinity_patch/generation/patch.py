"""`with patched(model, …) as caches:` gives a model compressed caches, and takes them away again.

Knows self-attention modules by the published attribute names, so that it patches objects built by
the published repository as well as ours; knows nothing of how tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

from torch import Tensor, nn

from scalekv.infinity_patch.asked.budgets import ReadBudget, preset_like, read_budget
from scalekv.infinity_patch.asked.policies import calibration_of, make_policy
from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.generation.turns import held
from scalekv.infinity_patch.model.attention import (
    attend,
    attend_ragged,
    attends_raggedly,
    project,
    queries_keys_values,
    raw_queries,
)
from scalekv.infinity_patch.model.rotary import Scales3, turns_of_scale
from scalekv.kv.budgets.asked import BudgetLike
from scalekv.kv.budgets.budget import Budget, BytesOf, Drafters
from scalekv.kv.caches.caches import Caches
from scalekv.kv.errors import UserError
from scalekv.kv.policies.policy import Policy
from scalekv.kv.schedule import Schedule

NEEDED = ("mat_qkv", "q_bias", "v_bias", "scale_mul_1H11", "proj", "kv_caching")
OVERRIDDEN = ("forward", "kv_caching", "keep_sequences")
_MISSING = object()


def self_attentions(model: nn.Module) -> list[nn.Module]:
    """The self-attention modules of a model in order, recognised by their attributes."""
    return [m for m in model.modules() if _is_self_attention(m)]


def _is_self_attention(module: nn.Module) -> bool:
    return all(hasattr(module, name) for name in NEEDED)


def caches_of(model: nn.Module) -> Caches | None:
    """The caches of a model that is patched now, else None."""
    for module in model.modules():  # of a patched model the first self-attention has them
        if _is_self_attention(module):
            caches = getattr(module.__dict__.get("forward"), "caches", None)
            return caches if isinstance(caches, Caches) else None
    return None


@contextmanager
def patched(
    model: nn.Module,
    policy: str | Policy = "scalekv",
    budget: BudgetLike = "10%",
    schedule: Schedule | None = None,
    *,
    drafters: Drafters | None = None,
    kv_dtype: str = "auto",
    kv_device: str = "auto",
    guided: bool | None = None,
) -> Iterator[Caches]:
    """Generate with compressed caches inside the block; afterwards the model is as it was.

    Args:
        model: an Infinity transformer, ours or built by the published repository.
        policy: a name or an object; see `scalekv.kv.policies.policy`.
        budget: "10%" of the history tokens, 650 (mean tokens per layer), a named budget, a file,
            or an object; not used by a policy that keeps everything.
        schedule: the only schedule to expect; None takes each picture's own from its first call.
        drafters: layers that get more, instead of those known for the model.
        kv_dtype: how held tokens are stored: "auto" (as attention computes), "fp32", "bf16",
            "int8", "int4".
        kv_device: where: "auto" (where attention computes) or "cpu" (in the host's memory).
        guided: whether the model will be given pairs of guidance halves, conditional sequences
            first, as with a cfg other than 1; the policy "coded" has to know, others do not care.
            Guidance has to mix logits, not hidden states.

    The model is this thread's inside the block: what another thread was drawing waits.

    Yields:
        The caches: `.nbytes`, `.peak_nbytes`, `.layers[i].kept` (B, H), `.ledger`, `.reset()`.

    Raises:
        UserError: no self-attention found, the model is patched already, by this thread or by
            another one, or a bad budget or policy.
    """
    with held(model):
        modules = _unpatched(model)
        layers, preset = len(modules), _preset_of(model, modules)
        caches = Caches(
            layers,
            make_policy(policy, calibration_of(policy, preset)),
            _budget_for(read_budget(budget, layers, preset, drafters)),
            schedule,
            kv_dtype=kv_dtype,
            kv_device=kv_device,
            guided=guided,
        )
        with _attached(modules, caches):
            yield caches


@contextmanager
def patched_as_settled(model: nn.Module, settled: Settled) -> Iterator[Caches]:
    """The same with everything as a request came to it, for whoever has the model's turn; nothing
    is read or allotted again.

    Raises:
        UserError: no self-attention found, or the model is patched already.
    """
    modules = _unpatched(model)
    caches = Caches(
        len(modules),
        make_policy(settled.policy, settled.calibration),
        lambda schedule: settled.planned,
        settled.schedule,
        picture=settled.picture,
        kv_dtype=settled.request.kv_dtype,
        kv_device=settled.request.kv_device,
        guided=settled.guided,
        as_planned=True,
    )
    with _attached(modules, caches):
        yield caches


def _unpatched(model: nn.Module) -> list[nn.Module]:
    """The self-attention modules of a model that is not patched."""
    modules = self_attentions(model)
    if not modules:
        raise UserError(
            f"{type(model).__name__} has no self-attention to patch",
            where="patched(model)",
            rule="modules are recognised by the attributes " + ", ".join(NEEDED),
            fix="give the Infinity transformer itself",
        )
    if caches_of(model) is not None:
        raise UserError(
            "the model is patched already",
            where="patched(model)",
            rule="patches do not nest",
            fix="leave the first `with patched(...)` block before entering another",
        )
    return modules


def _budget_for(read: ReadBudget) -> Callable[[Schedule], Budget | Callable[[BytesOf], Budget]]:
    """What makes a schedule's budget; of bytes, once it is known how many a token takes."""
    if read.in_bytes:
        return lambda schedule: lambda bytes_of: read.on(schedule, bytes_of)
    return read.on


@contextmanager
def _attached(modules: list[nn.Module], caches: Caches) -> Iterator[None]:
    before = [{name: m.__dict__.get(name, _MISSING) for name in OVERRIDDEN} for m in modules]
    try:
        for layer, module in enumerate(modules):
            _empty(module)
            # written to the instance's dictionary: nn.Module would not look for methods elsewhere
            module.__dict__["forward"] = _Forward(module, layer, caches)
            module.__dict__["kv_caching"] = _kv_caching(layer, caches)
            module.__dict__["keep_sequences"] = partial(caches.keep_sequences, layer)
        yield
    finally:
        for module, saved in zip(modules, before, strict=True):
            for name, value in saved.items():
                if value is _MISSING:
                    module.__dict__.pop(name, None)
                else:
                    module.__dict__[name] = value
            _empty(module)
        caches.release()


def _preset_of(model: nn.Module, modules: list[nn.Module]) -> str | None:
    """The name of the preset whose weights the model was given or, where nothing says so, of the
    first with modules like these; None: there is none."""
    named = getattr(model, "preset_name", None)
    if isinstance(named, str):
        return named
    first: Any = modules[0]
    preset = preset_like(len(modules), first.q_bias.numel(), first.scale_mul_1H11.numel())
    return None if preset is None else preset.name


class _Forward:
    """What a self-attention does while it is patched. It belongs to one module: a copy would go on
    computing with the weights of the original."""

    def __init__(self, module: Any, layer: int, caches: Caches) -> None:
        self.module, self.layer, self.caches = module, layer, caches

    def __call__(
        self,
        x: Tensor,
        attn_bias_or_two_vector: Any = None,
        attn_fn: Any = None,
        scale_schedule: Scales3 = (),
        rope2d_freqs_grid: Mapping[str, Tensor] | None = None,
        scale_ind: int = 0,
    ) -> Tensor:
        assert rope2d_freqs_grid is not None, "a patched model needs its rotary tables"
        module, schedule = self.module, Schedule.of(scale_schedule)
        q, k, v = queries_keys_values(
            module,
            x,
            scale_schedule,
            rope2d_freqs_grid,
            scale_ind,
            partial(self.caches.place, self.layer, scale_ind, schedule),
        )
        out = self.caches.attend(
            self.layer,
            scale_ind,
            schedule,
            q,
            k,
            v,
            attend,
            raw_queries=lambda tokens: raw_queries(module, x, tokens),
            ragged=attend_ragged if attends_raggedly(q) else None,
            turns=lambda: turns_of_scale(
                rope2d_freqs_grid, scale_schedule, scale_ind, x.device
            ).squeeze(1),
        )
        return project(module, out)

    def __reduce_ex__(self, _protocol: Any) -> NoReturn:
        raise UserError(
            "a patched model cannot be copied or pickled",
            where="a `with patched(...)` block",
            rule="a patch belongs to one model: a copy would compute with the original's weights",
            fix="copy or save the model before the block or after it",
        )


def _kv_caching(layer: int, caches: Caches) -> Callable[[bool], None]:
    def kv_caching(enable: bool) -> None:
        """Before and after each picture the published code says so: drop what is held."""
        caches.layers[layer].reset()

    return kv_caching


def _empty(module: Any) -> None:
    for name in ("cached_k", "cached_v"):
        if hasattr(module, name):
            setattr(module, name, None)
