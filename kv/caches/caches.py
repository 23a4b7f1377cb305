"""All layers' caches of one model: joins held and new tokens for attention, then lets the policy
choose what stays. Knows no model; attention itself is handed in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scalekv.kv.autocast import without_autocast
from scalekv.kv.budgets.budget import Budget, BytesOf
from scalekv.kv.budgets.moments import within
from scalekv.kv.caches.attending import (
    RESET,
    Attention,
    Joined,
    Observer,
    Placed,
    Ragged,
    Turns,
    Unwritten,
    attended,
    changed,
    distribute,
    out_of_turn,
)
from scalekv.kv.caches.choosing import Asked, RawQueries, alike
from scalekv.kv.caches.halves import HalvesStorage
from scalekv.kv.caches.held import HeldFormat
from scalekv.kv.caches.layer import LayerCache
from scalekv.kv.caches.layout import by_token, empty
from scalekv.kv.caches.storage import Storage
from scalekv.kv.caches.workspace import Workspace
from scalekv.kv.dtypes import DTYPE_NAMES
from scalekv.kv.errors import UserError
from scalekv.kv.memory.ledger import CacheLedger, LayerRecord
from scalekv.kv.memory.predicted import CacheShape, read_in_place, rooms, stored_bytes_of
from scalekv.kv.policies.policy import Policy, Stores
from scalekv.kv.policies.registry import check_stores, planned, takes_budget
from scalekv.kv.precision import check_kv_device, check_kv_dtype, precision_of
from scalekv.kv.schedule import Schedule


class Caches:
    """The caches of a model's self-attention layers, through one picture after another.

    A picture starts when layer 0 attends at scale 0: everything held is dropped, the budget is
    made for that picture's schedule and a new ledger is begun.

    Attributes:
        layers: one `LayerCache` per layer.
        policy: chooses what stays.
        budget: of the current picture, as the policy plans it; None where it takes none, and where
            it depends on the bytes of tokens that are yet to come.
        ledger: of the current or the last picture; None before the first.
        observer: told of every attention call of all heads together; None tells nobody. To be set
            from outside.
    """

    def __init__(
        self,
        layers: int,
        policy: Policy,
        budget_for: Callable[[Schedule], Budget | Callable[[BytesOf], Budget] | None],
        schedule: Schedule | None = None,
        *,
        kv_dtype: str = "auto",
        kv_device: str = "auto",
        guided: bool | None = None,
        as_planned: bool = False,
        picture: Schedule | None = None,
    ) -> None:
        """
        Args:
            layers: number of self-attention layers.
            policy: see `scalekv.kv.policies.policy`.
            budget_for: makes the budget of a schedule, or what makes it once it is known how many
                bytes a token takes; None holds everything. Not asked when the policy takes no
                budget.
            schedule: the only schedule to expect, and to make the budget for at once; None takes
                each picture's own from its first call.
            kv_dtype: how held tokens are stored: "auto" (as attention computes), "fp32", "bf16",
                "int8" or "int4".
            kv_device: where: "auto" (where attention computes) or "cpu" (in the host's pinned
                memory, each layer's brought over while the layer before it computes).
            guided: whether sequences are pairs of guidance halves, conditional first; None: unsaid.
            as_planned: whether `budget_for` answers with what the policy has planned already.
            picture: what ledgers measure against, where not all scales of a picture are drawn.

        Raises:
            UserError: whatever `budget_for` raises for the schedule given, or an unknown dtype or
                device.
        """
        check_kv_dtype(kv_dtype)
        check_kv_device(kv_device)
        if isinstance(policy, Stores):
            check_stores(policy.name, kv_dtype)
        self.layers = [LayerCache() for _ in range(layers)]
        self.policy = policy
        self.budget: Budget | None = None
        self.ledger: CacheLedger | None = None
        self.observer: Observer | None = None
        self._budget_for = budget_for
        self._only = schedule
        self._picture = picture
        self._schedule: Schedule | None = None
        self._limits: Budget | None = None
        self._rooms: list[list[tuple[int, ...]]] = []
        self._kv_dtype = kv_dtype
        self._kv_device = kv_device
        self._guided = guided
        self._storage: Storage | None = None
        self._as_planned = as_planned
        self._made_of_bytes: Callable[[BytesOf], Budget] | None = None
        self._next_scale = [0] * layers
        self._bytes = [(0, 0)] * layers  # of each layer's k and v, and of what is noted about them
        self._workspace = Workspace()
        self._placed: Placed | None = None
        self._peak = 0
        if schedule is not None:
            self._plan(schedule)

    @property
    def nbytes(self) -> int:
        """Bytes of the k and v held now, all layers."""
        return sum(cache.nbytes for cache in self.layers)

    @property
    def index_nbytes(self) -> int:
        """Bytes of the held tokens' positions and of the policy's notes, all layers."""
        return sum(cache.index_nbytes for cache in self.layers)

    @property
    def peak_nbytes(self) -> int:
        """The most `nbytes` has been since the last `reset()`."""
        return self._peak

    @property
    def transient_nbytes(self) -> int:
        """Bytes of the workspace now."""
        return self._workspace.nbytes

    def release(self) -> None:
        """Frees everything held and the workspace; ledger, budget and peak can still be read."""
        for cache in self.layers:
            cache.reset()
        self._workspace.release()
        self._placed = self._storage = None
        self._next_scale = [0] * len(self.layers)

    def reset(self) -> None:
        """As new: `release()`, and ledger and peak forgotten."""
        self.release()
        self.ledger = None
        self._peak = 0

    def place(
        self,
        layer: int,
        scale: int,
        schedule: Schedule,
        shape: tuple[int, int, int, int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> tuple[Tensor, Tensor]:
        """Where this scale's keys and values are to be written before `attend` is called with
        them: views (B, H, L, D) of what attention will read, so that they need not be copied.

        Args:
            shape: (B, H, L, D).

        Raises:
            UserError: as `attend`.
        """
        like = Unwritten(shape, dtype, device)
        if layer == 0 and scale == 0:
            self._begin(schedule, like)
        ledger = self._checked_turn(layer, scale, schedule, like)
        cache = self.layers[layer]
        # The caller's autocast is for attention alone: what is held stays as it was computed.
        with torch.no_grad(), without_autocast(like):
            grown = self._grown(layer, scale, schedule, like)
            if grown is not None:
                joined, new = [grown], grown[:, :, :, cache.tokens :]
            elif cache.all_together:
                joined = self._joined(layer, like)
                new = joined[0][:, :, :, cache.tokens :]
            else:
                joined = self._joined(layer, like)
                new = empty((2, *shape), by_token=by_token(device), dtype=dtype, device=device)
        ledger.record_transient(scale, self.transient_nbytes)
        self._placed = Placed(layer, scale, joined, new[0], new[1], grown is not None)
        return self._placed.k, self._placed.v

    def attend(
        self,
        layer: int,
        scale: int,
        schedule: Schedule,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attention: Attention,
        raw_queries: RawQueries | None = None,
        ragged: Ragged | None = None,
        turns: Turns | None = None,
    ) -> Tensor:
        """Attention of one layer at one scale over everything cached, then eviction.

        Args:
            layer, scale: from 0.
            schedule: of the picture being generated.
            q: (B, H, L, D) queries, normalised, scaled and rotated: the softmax scale is 1.
            k, v: (B, H, L, D) keys and values of this scale, as they are to be cached: those that
                `place` gave, or any other, which are copied there.
            attention: called with q and with k and v of all T cached tokens; its result must be a
                new tensor.
            raw_queries: called only if the policy asks; see `Step`.
            ragged: called instead, once, where heads hold unequally many tokens; None: `attention`
                is called for each group of heads that hold equally many.
            turns: called only if the way tokens are stored asks; None: keys are not turned.

        Returns:
            What `attention` (or `ragged`) returned, heads in order.

        Raises:
            UserError: a schedule other than the picture's, or a scale out of turn.
        """
        placed = self._placed
        if placed is None or placed.k is not k or placed.v is not v:
            shape = (k.shape[0], k.shape[1], k.shape[2], k.shape[3])
            self.place(layer, scale, schedule, shape, k.dtype, k.device)
            placed = self._placed
            assert placed is not None, "it was just made"
            with torch.no_grad():
                placed.k.copy_(k)
                placed.v.copy_(v)
        assert (placed.layer, placed.scale) == (layer, scale), (placed.layer, placed.scale)
        self._placed = None
        cache, joined, ledger = self.layers[layer], placed.joined, self.ledger
        assert ledger is not None, "a place is given within a picture"
        if not cache.all_together:
            distribute(cache, placed)
        if layer == 0 and self._storage is not None:
            self._storage.turned(turns)
        if self.observer is not None and cache.all_together:
            self.observer(layer, scale, schedule, q, *joined[0])
        out = attended(cache, q, joined, attention, ragged)
        self._next_scale[layer] = scale + 1
        if scale + 1 == len(schedule):  # the last scale's k and v are never read again
            return out
        with torch.no_grad(), without_autocast(k):
            self._keep(ledger, layer, scale, q, joined, placed.there, raw_queries)
        return out

    def keep_sequences(self, layer: int, count: int) -> None:
        """Between two scales: forgets what a layer holds of all sequences but the first, of which
        alone more tokens will come."""
        assert self.ledger is not None, "within a picture"
        self.layers[layer].keep_sequences(count)
        self._record(self.ledger, layer, self._next_scale[layer])

    def _grown(self, layer: int, scale: int, schedule: Schedule, like: Unwritten) -> Tensor | None:
        """Where held and new tokens lie together already; None: they do not, or not for long,
        since some have to be dropped."""
        following = min(scale + 1, len(schedule) - 1)
        limits, room = self._limits_of(layer, following), self._rooms[following][layer]
        if not read_in_place(schedule, scale, limits, self._rooms[scale][layer], room):
            return None
        return self.layers[layer].grown(like, room[0])

    def _joined(self, layer: int, like: Unwritten) -> Joined:
        """Copies of the held tokens with room for the new ones behind them."""
        joined = self._workspace.joined(self.layers[layer], like)
        if layer + 1 < len(self.layers):
            self._workspace.fetch(self.layers[layer + 1], like)
        return joined

    def _plan(self, schedule: Schedule) -> None:
        budget = self._budget_for(schedule) if takes_budget(self.policy) else None
        self._made_of_bytes = budget if callable(budget) else None
        self._take(None if callable(budget) else budget, schedule)
        self._schedule = schedule

    def _take(self, budget: Budget | None, schedule: Schedule) -> None:
        if budget is not None:
            assert budget.schedule == schedule, f"budget for {budget.schedule}, not {schedule}"
            assert budget.layers == len(self.layers), f"budget for {budget.layers} layers"
            budget = budget if self._as_planned else planned(self.policy, budget)
        self.budget = budget
        stored = isinstance(self.policy, Stores)  # and nothing dropped
        self._limits = None if budget is None or stored else within(budget)

    def _begin(self, schedule: Schedule, like: Unwritten) -> None:
        if self._only is not None and schedule != self._only:
            raise UserError(
                f"this picture's schedule is {schedule}",
                where="schedule",
                rule=f"the cache was made for {self._only}",
                fix="leave the schedule out to take each picture's own",
            )
        self._next_scale = [0] * len(self.layers)
        if schedule != self._schedule:
            self._plan(schedule)
        batch, heads, _, dim = like.shape
        element = like.dtype.itemsize
        shape = CacheShape(len(self.layers), batch, heads, dim, element, element)
        precision = precision_of(self._kv_dtype, DTYPE_NAMES[like.dtype])
        if self._made_of_bytes is not None:
            self._take(self._made_of_bytes(stored_bytes_of(shape, precision, schedule)), schedule)
        self._rooms = rooms(schedule, len(self.layers), heads, self._limits)
        on_host = self._kv_device == "cpu" and like.device.type != "cpu"
        self._storage = HeldFormat(precision, len(schedule) - 1, on_host)
        if precision.quantised and self._guided is not None and self._limits is None:
            self._storage = HalvesStorage(precision, len(schedule) - 1, self._guided, on_host)
        if isinstance(self.policy, Stores):
            assert self.budget is not None, "a policy that stores in its own way takes a budget"
            self._storage = self.policy.storage(self.budget, shape, self._guided, like, on_host)
        for layer, cache in enumerate(self.layers):
            cache.begin(like, schedule, self._storage.of_layer(layer))
        self._bytes = [(cache.nbytes, cache.index_nbytes) for cache in self.layers]
        self._workspace.ahead = on_host
        about = self._storage.to_dict()
        self.ledger = CacheLedger(
            schedule, shape, self.policy.name, self.budget, precision, about, self._picture
        )
        for layer in range(len(self.layers)):
            self.ledger.record(0, layer, LayerRecord(0, 0, 0, 0.0, 0, 0))

    def _checked_turn(
        self, layer: int, scale: int, schedule: Schedule, like: Unwritten
    ) -> CacheLedger:
        """The picture's ledger, once it is sure that this call belongs to the picture."""
        if self.ledger is None or scale != self._next_scale[layer]:
            raise out_of_turn(layer, scale, self._next_scale[layer])
        if not self.layers[layer].groups:
            raise changed(RESET, layer, scale)
        if schedule != self._schedule:
            was = f"the schedule changed from {self._schedule} to {schedule}"
            raise changed(was, layer, scale)
        assert like.shape[2] == schedule.tokens[scale], (like.shape, schedule.scales[scale])
        return self.ledger

    def _limits_of(self, layer: int, scale: int) -> tuple[int, ...]:
        """The most tokens each head of a layer may hold while a scale is generated."""
        assert self.ledger is not None, "within a picture"
        heads = self.ledger.shape.heads
        if self._limits is None:
            return (self.ledger.schedule.before(scale),) * heads
        return self._limits.limits(scale, layer, heads)

    def _keep(
        self,
        ledger: CacheLedger,
        layer: int,
        scale: int,
        q: Tensor,
        joined: Joined,
        in_place: bool,
        raw_queries: RawQueries | None,
    ) -> None:
        cache, limits = self.layers[layer], self._limits_of(layer, scale + 1)
        room = self._rooms[scale + 1][layer]
        asked = Asked(
            self.policy, self.budget, ledger.schedule, layer, scale, q, in_place, raw_queries
        )
        cache.keep(
            [
                asked.choice(cache, number, heads, limits[heads[0]], room[heads[0]], kv)
                for number, kv in enumerate(joined)
                for heads in alike(cache.groups[number].heads, limits)
            ]
        )
        self._record(ledger, layer, scale + 1)

    def _record(self, ledger: CacheLedger, layer: int, scale: int) -> None:
        """Notes what a layer holds while a scale, which comes next, is generated."""
        cache, budget = self.layers[layer], self.budget
        limits = self._limits_of(layer, scale)
        counts = cache.tokens_by_head
        held_bytes, index_bytes = self._bytes[layer] = (cache.nbytes, cache.index_nbytes)
        ledger.record(
            scale,
            layer,
            LayerRecord(
                capacity=budget.capacity(scale, layer) if budget and self._limits else max(limits),
                held_min=min(counts),
                held_max=max(counts),
                held_mean=sum(counts) / len(counts),
                held_bytes=held_bytes,
                index_bytes=index_bytes,
            ),
        )
        held, index = (sum(column) for column in zip(*self._bytes, strict=True))
        self._peak = max(self._peak, held)
        ledger.record_held(held, index)
