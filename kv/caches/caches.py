"""All layers' caches of one model: joins held and new tokens for attention, then lets the policy
choose what stays. Knows no model; attention itself is handed in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scalekv.kv.budgets.budget import WINDOW, Budget, BytesOf
from scalekv.kv.budgets.moments import within
from scalekv.kv.caches.held import HeldFormat, Part
from scalekv.kv.caches.layer import Choice, LayerCache
from scalekv.kv.caches.storage import Storage
from scalekv.kv.caches.workspace import Workspace
from scalekv.kv.dtypes import DTYPE_NAMES
from scalekv.kv.errors import UserError
from scalekv.kv.memory.ledger import CacheLedger, LayerRecord
from scalekv.kv.memory.predicted import CacheShape, rooms, stored_bytes_of
from scalekv.kv.policies.policy import Policy, Step, Stores
from scalekv.kv.policies.registry import check_stores, planned, takes_budget
from scalekv.kv.precision import check_kv_device, check_kv_dtype, precision_of
from scalekv.kv.schedule import Schedule

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q (B, H, L, D), k (B, H, T, D), v (B, H, T, D)) -> a new tensor, no view of k or v."""

Ragged = Callable[[Tensor, Tensor, Tensor, int, tuple[int, ...]], Tensor]
"""Attention of many sequences of unequal length in one call: (q (N * L, D), k (sum of T, D), v
likewise, L, the N lengths T) -> (N * L, D), new; sequence after sequence in each."""

Observer = Callable[[int, int, Schedule, Tensor, Tensor, Tensor], None]
"""(layer, scale, schedule, q (B, H, L, D), k and v (B, H, T, D)) of an attention call about to be
made, the last scale's too; under a policy that keeps everything, key t is the picture's token t."""

Joined = list[tuple[Tensor, Tensor]]
"""For each group of heads k and v (B, h, T, D) of everything cached."""

RawQueries = Callable[[Tensor], Tensor]
"""(W,) tokens of the newest map -> (B, H, W, D); see `Step.raw_queries`."""

Turns = Callable[[], Tensor]
"""-> (L, D / 2) complex, what each pair of channels of the newest map's keys was multiplied by."""


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
            guided: whether the sequences of a batch are pairs of guidance halves, the conditional
                ones first; None: nobody says, which only some policies mind.
            as_planned: whether `budget_for` answers with what the policy has planned already.

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
        self._storage = None
        self._next_scale = [0] * len(self.layers)

    def reset(self) -> None:
        """As new: `release()`, and ledger and peak forgotten."""
        self.release()
        self.ledger = None
        self._peak = 0

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
            k, v: (B, H, L, D) keys and values of this scale, as they are to be cached.
            attention: called with q and contiguous k and v of all T cached tokens; its result
                must be a new tensor.
            raw_queries: called only if the policy asks; see `Step`.
            ragged: called instead, once, where heads hold unequally many tokens; None: `attention`
                is called for each group of heads that hold equally many.
            turns: called only if the way tokens are stored asks; None: keys are not turned.

        Returns:
            What `attention` (or `ragged`) returned, heads in order.

        Raises:
            UserError: a schedule other than the picture's, or a scale out of turn.
        """
        if layer == 0 and scale == 0:
            self._begin(schedule, k, v)
        if layer == 0 and self._storage is not None and self._storage.needs_turns:
            self._storage.turned(None if turns is None else turns())
        ledger = self._checked_turn(layer, scale, schedule, k)
        cache = self.layers[layer]
        with torch.no_grad():
            joined = self._workspace.joined(cache, k, v)
            if layer + 1 < len(self.layers):
                self._workspace.fetch(self.layers[layer + 1], k, v)
        ledger.record_transient(scale, self.transient_nbytes)
        if self.observer is not None and cache.all_together:
            self.observer(layer, scale, schedule, q, *joined[0])
        out = _attended(cache, q, joined, attention, ragged)
        self._next_scale[layer] = scale + 1
        if scale + 1 < len(schedule):  # the last scale's k and v are never read again
            self._keep(ledger, layer, scale, q, joined, raw_queries)
        return out

    def _plan(self, schedule: Schedule) -> None:
        made = self._budget_for(schedule) if takes_budget(self.policy) else None
        self._made_of_bytes = made if callable(made) else None
        self._take(None if callable(made) else made, schedule)
        self._schedule = schedule

    def _take(self, budget: Budget | None, schedule: Schedule) -> None:
        if budget is not None:
            assert budget.schedule == schedule, f"budget for {budget.schedule}, not {schedule}"
            assert budget.layers == len(self.layers), f"budget for {budget.layers} layers"
            budget = budget if self._as_planned else planned(self.policy, budget)
        self.budget = budget
        drops = budget is not None and not isinstance(self.policy, Stores)
        self._limits = within(budget) if budget is not None and drops else None

    def _begin(self, schedule: Schedule, k: Tensor, v: Tensor) -> None:
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
        batch, heads, _, dim = k.shape
        shape = CacheShape(
            layers=len(self.layers),
            sequences=batch,
            heads=heads,
            head_dim=dim,
            k_bytes=k.element_size(),
            v_bytes=v.element_size(),
        )
        precision = precision_of(self._kv_dtype, DTYPE_NAMES[k.dtype])
        if self._made_of_bytes is not None:
            self._take(self._made_of_bytes(stored_bytes_of(shape, precision, schedule)), schedule)
        self._rooms = rooms(schedule, len(self.layers), heads, self._limits)
        on_host = self._kv_device == "cpu" and k.device.type != "cpu"
        storage: Storage = HeldFormat(precision, len(schedule) - 1, on_host)
        if isinstance(self.policy, Stores):
            assert self.budget is not None, "a policy that stores in its own way takes a budget"
            storage = self.policy.storage(self.budget, shape, self._guided, k, on_host)
        self._storage = storage
        for layer, cache in enumerate(self.layers):
            cache.begin(k, schedule, storage.of_layer(layer))
        self._bytes = [(cache.nbytes, cache.index_nbytes) for cache in self.layers]
        self._workspace.ahead = on_host
        self.ledger = CacheLedger(
            schedule, shape, self.policy.name, self.budget, precision, storage.to_dict()
        )
        for layer in range(len(self.layers)):
            self.ledger.record(0, layer, LayerRecord(0, 0, 0, 0.0, 0, 0))

    def _checked_turn(self, layer: int, scale: int, schedule: Schedule, k: Tensor) -> CacheLedger:
        """The picture's ledger, once it is sure that this call belongs to the picture."""
        if self.ledger is None or scale != self._next_scale[layer]:
            raise UserError(
                f"scale {scale + 1} came when scale {self._next_scale[layer] + 1} was due",
                where=f"layer {layer}",
                rule="every layer goes through the scales of a picture in order",
                fix="start the picture again from its first scale",
            )
        if not self.layers[layer].groups:
            raise UserError(
                "the layer's cache was reset in the middle of a picture",
                where=f"layer {layer}, scale {scale + 1}",
                rule="every layer goes through all scales of a picture",
                fix="start the picture again from its first scale",
            )
        if schedule != self._schedule:
            raise UserError(
                f"the schedule changed from {self._schedule} to {schedule}",
                where=f"layer {layer}, scale {scale + 1}",
                rule="one schedule per picture",
                fix="start the picture again from its first scale",
            )
        assert k.shape[2] == schedule.tokens[scale], (k.shape, schedule.scales[scale])
        return self.ledger

    def _keep(
        self,
        ledger: CacheLedger,
        layer: int,
        scale: int,
        q: Tensor,
        joined: Joined,
        raw_queries: RawQueries | None,
    ) -> None:
        cache, budget, following = self.layers[layer], self.budget, scale + 1
        heads = q.shape[1]
        if self._limits is None:
            limits = (ledger.schedule.before(following),) * heads
        else:
            limits = self._limits.limits(following, layer, heads)
        with torch.no_grad():
            cache.keep(
                [
                    self._chosen(layer, scale, number, some, limits[some[0]], q, kv, raw_queries)
                    for number, kv in enumerate(joined)
                    for some in _alike(cache.groups[number].heads, limits)
                ]
            )
        counts = cache.tokens_by_head
        held_bytes, index_bytes = self._bytes[layer] = (cache.nbytes, cache.index_nbytes)
        ledger.record(
            following,
            layer,
            LayerRecord(
                capacity=max(limits)
                if budget is None or self._limits is None
                else budget.capacity(following, layer),
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

    def _chosen(
        self,
        layer: int,
        scale: int,
        number: int,
        heads: tuple[int, ...],
        capacity: int,
        q: Tensor,
        kv: tuple[Tensor, Tensor],
        raw_queries: RawQueries | None,
    ) -> Choice:
        """What `heads` of group `number` keep after `scale`, at most `capacity` tokens each."""
        cache, schedule, budget = self.layers[layer], self._schedule, self.budget
        assert schedule is not None
        group = cache.groups[number]
        new = schedule.tokens[scale]
        positions = group.positions_with(cache.seen, new, q)
        notes, (k, v), rows = group.notes, kv, None
        if heads != group.heads:
            rows = cache.rows(tuple(group.heads.index(head) for head in heads), q.device)
            k, v = k.index_select(1, rows), v.index_select(1, rows)
            positions = None if positions is None else positions.index_select(1, rows)
            notes = {name: note.index_select(1, rows) for name, note in notes.items()}
        if heads != tuple(range(q.shape[1])):
            numbers = cache.rows(heads, q.device)
            q = q.index_select(1, numbers)
            if raw_queries is not None:
                raw_queries = _for_heads(raw_queries, numbers)
        if capacity == 0:
            slots: Tensor | None = torch.empty(
                (*k.shape[:2], 0), dtype=torch.int64, device=k.device
            )
        else:
            slots = self.policy.select(
                Step(
                    scale=scale,
                    layer=layer,
                    heads=heads,
                    schedule=schedule,
                    capacity=capacity,
                    window=WINDOW if budget is None else budget.window,
                    q=q,
                    k=k,
                    v=v,
                    positions=positions,
                    notes=notes,
                    raw_queries=raw_queries,
                    budget=budget,
                )
            )
        part = Part(k, v, old=k.shape[2] - new, scale=scale, slots=slots, rows=rows)
        assert part.tokens <= capacity, (
            f"{self.policy.name} kept {part.tokens} tokens of layer {layer} after scale "
            f"{scale + 1}, its capacity is {capacity}"
        )
        room = max(part.tokens, self._rooms[scale + 1][layer][heads[0]])
        return Choice(number, heads, rows, part, room, positions, notes)


def _attended(
    cache: LayerCache, q: Tensor, joined: Joined, attention: Attention, ragged: Ragged | None
) -> Tensor:
    """Attention of all heads: one call for those that hold equally many tokens, or for all."""
    if cache.all_together:
        return attention(q, *joined[0])
    queries = [cache.of(group, q) for group in cache.groups]
    if ragged is None:
        answers = [attention(some, *kv) for some, kv in zip(queries, joined, strict=True)]
    else:
        answers = _in_one_call(queries, joined, ragged)
    order = [head for group in cache.groups for head in group.heads]
    places = tuple(sorted(range(len(order)), key=order.__getitem__))
    return torch.cat(answers, dim=1).index_select(1, cache.rows(places, q.device))


def _in_one_call(queries: list[Tensor], joined: Joined, ragged: Ragged) -> list[Tensor]:
    """Each group's attention (B, h, L, D); every head of every sequence is a sequence here."""
    length, dim = queries[0].shape[2:]
    lengths = tuple(k.shape[2] for k, _ in joined for _ in range(k.shape[0] * k.shape[1]))
    # The groups lie one behind the other in the workspace: that is the form wanted, uncopied.
    k_rows, v_rows = (first.as_strided((sum(lengths), dim), (dim, 1)) for first in joined[0])
    q_rows = torch.cat([some.reshape(-1, dim) for some in queries])
    rows = ragged(q_rows, k_rows, v_rows, length, lengths)
    sizes = [some.shape[0] * some.shape[1] * length for some in queries]
    return [part.view(some.shape) for part, some in zip(rows.split(sizes), queries, strict=True)]


def _alike(heads: tuple[int, ...], limits: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The heads that may keep equally many tokens together, in their order."""
    by_limit: dict[int, list[int]] = {}
    for head in heads:
        by_limit.setdefault(limits[head], []).append(head)
    return [tuple(some) for some in by_limit.values()]


def _for_heads(raw_queries: RawQueries, numbers: Tensor) -> RawQueries:
    return lambda tokens: raw_queries(tokens).index_select(1, numbers)
