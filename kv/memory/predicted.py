"""Predicts the bytes of a cache. Pure arithmetic: knows no tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scalekv.kv.budgets.budget import Budget, filled
from scalekv.kv.budgets.moments import within
from scalekv.kv.precision import Precision
from scalekv.kv.schedule import Schedule

POSITION_BYTES = 4  # of a held token's place in the picture, where any was dropped


@dataclass(frozen=True)
class CacheShape:
    """All of a cache's shape but the number of tokens.

    Attributes:
        layers, heads, head_dim: of the model.
        sequences: rows of the batch; guidance doubles the pictures.
        k_bytes, v_bytes: bytes of one element of k and of v.
    """

    layers: int
    sequences: int
    heads: int
    head_dim: int
    k_bytes: int
    v_bytes: int

    @property
    def bytes_per_token(self) -> int:
        """Bytes of k and v for one token in one layer, over all sequences and heads."""
        return self.sequences * self.heads * self.head_dim * (self.k_bytes + self.v_bytes)

    def bytes_of(self, tokens: int) -> int:
        """Bytes of k and v when every layer holds `tokens`."""
        return self.layers * self.bytes_per_token * tokens

    def full_bytes(self, schedule: Schedule, *, last_scale: bool = False) -> int:
        """Bytes of k and v when nothing is dropped.

        Args:
            last_scale: count the last scale too, which no later scale reads.
        """
        return self.bytes_of(schedule.total if last_scale else schedule.history)


def cache_bytes(
    layers: int, sequences: int, heads: int, head_dim: int, tokens: int, bytes_per_element: int
) -> int:
    """Bytes of k and v together, all layers holding `tokens` for every sequence and head."""
    shape = CacheShape(layers, sequences, heads, head_dim, bytes_per_element, bytes_per_element)
    return shape.bytes_of(tokens)


def full_cache_bytes(
    schedule: Schedule,
    layers: int,
    sequences: int,
    heads: int,
    head_dim: int,
    bytes_per_element: int,
    *,
    include_last: bool = False,
) -> int:
    """Bytes of k and v when nothing is dropped.

    Args:
        include_last: count the last scale too, which no later scale reads.
    """
    shape = CacheShape(layers, sequences, heads, head_dim, bytes_per_element, bytes_per_element)
    return shape.full_bytes(schedule, last_scale=include_last)


def peak_held_tokens(schedule: Schedule, layers: int, budget: Budget | None, heads: int = 1) -> int:
    """The most tokens, summed over the layers and their `heads`, held at any moment of one
    picture, by a policy that fills its capacities; None: nothing is dropped.

    Layers are rewritten one after the other, so between two scales some hold the new scale's
    capacity while the others still hold the last one's.

    Raises:
        UserError: the budget has capacities by head, for another number of heads.
    """
    if budget is None:
        return schedule.history * layers * heads
    held = [(0,) * heads] * layers
    total = peak = 0
    for scale in range(1, len(schedule)):
        new = schedule.tokens[scale - 1]
        for layer in range(layers):
            kept = filled(budget.limits(scale, layer, heads), held[layer], new)
            total += sum(kept) - sum(held[layer])
            held[layer] = kept
            peak = max(peak, total)
    return peak


def stored_bytes_of(
    shape: CacheShape, precision: Precision, schedule: Schedule
) -> Callable[[int], int]:
    """From tokens in every head of every layer to the bytes they take as they are held."""

    def bytes_of(tokens: int) -> int:
        row = [tokens] * shape.heads
        one = precision.held_bytes(shape.head_dim, len(schedule) - 1, row)
        return shape.layers * shape.sequences * one

    return bytes_of


def rooms(
    schedule: Schedule, layers: int, heads: int, budget: Budget | None
) -> list[list[tuple[int, ...]]]:
    """Tokens each head of each layer has memory for while each scale is generated, under a policy
    that fills its capacities: [scale][layer][head].

    `budget` says what may be held at any moment (see `scalekv.kv.budgets.moments`); None: all.
    Memory is made at once for what a layer holds when tokens are first dropped, and written in
    place; from then on, and where heads differ, or where that would take more than the budget, it
    is what is held.
    """
    last = len(schedule) - 1
    if budget is None:
        return [[(schedule.history if scale else 0,) * heads] * layers for scale in range(last + 1)]
    held = [[(0,) * heads] * layers]
    for scale in range(1, last + 1):
        new = schedule.tokens[scale - 1]
        held.append(
            [
                filled(budget.limits(scale, layer, heads), before, new)
                for layer, before in enumerate(held[-1])
            ]
        )
    first = next(
        (s for s in range(1, last + 1) if min(map(min, held[s])) < schedule.before(s)), last
    )
    if not budget.head_capacities and min(map(min, held[first])) >= schedule.before(first - 1):
        for scale in range(1, first):
            held[scale] = held[first]
    return held


def read_in_place(
    schedule: Schedule,
    scale: int,
    limits: tuple[int, ...],
    room: tuple[int, ...],
    following: tuple[int, ...],
) -> bool:
    """Whether, while a scale is generated, attention can read a layer's tokens where they are held,
    new ones written behind the others: everything stays, in memory that is there already.

    Args:
        limits: the most tokens each head may hold for the next scale.
        room, following: tokens each head has memory for while this scale and the next is generated.
    """
    if scale + 1 == len(schedule) or len({*limits}) > 1 or len({*following}) > 1:
        return False
    return min(limits[0], following[0]) >= schedule.before(scale + 1) and (
        scale == 0 or room == following
    )


@dataclass(frozen=True)
class CachePrediction:
    """What a cache will take, by arithmetic alone: exactly what a ledger then reads off tensors.

    Attributes:
        scale_bytes: bytes of k and v held while each scale is generated.
        held_peak_bytes: the most k and v held at any moment.
        index_peak_bytes: the most that positions of held tokens, and notes on them, take.
        transient_peak_bytes: the largest workspace in which held and new tokens meet.
    """

    scale_bytes: tuple[int, ...]
    held_peak_bytes: int
    index_peak_bytes: int
    transient_peak_bytes: int


def predicted(
    schedule: Schedule,
    shape: CacheShape,
    budget: Budget | None = None,
    precision: Precision | None = None,
    note_bytes: int = 0,
    on_host: bool = False,
) -> CachePrediction:
    """The bytes of one picture's cache (or batch's), under a policy that fills its capacities.

    Args:
        shape: of the model, with the bytes of the elements attention computes with.
        budget: as the policy plans it; None: everything is held.
        precision: how held tokens are stored; None: as attention computes.
        note_bytes: of the policy's notes on one held token of one head.
        on_host: whether held tokens are elsewhere than where attention computes.
    """
    as_computed = precision is None or precision.bits == 8 * shape.k_bytes
    limits = None if budget is None else within(budget)
    apart = limits is not None and bool(limits.head_capacities)
    heads = shape.heads if apart else 1  # where all are alike, one is counted for all
    alike = shape.sequences * (shape.heads // heads)
    compute = shape.head_dim * (shape.k_bytes + shape.v_bytes)  # of one token in one head
    held, indices = [0] * shape.layers, [0] * shape.layers
    tokens = [(0,) * heads] * shape.layers
    by_scale, peak, index_peak, transient = [], 0, 0, 0
    all_held = all_indices = 0
    all_rooms = rooms(schedule, shape.layers, heads, limits)
    for scale, row in enumerate(all_rooms):
        following = min(scale + 1, len(schedule) - 1)
        for layer, room in enumerate(row):
            new = schedule.tokens[scale - 1] if scale else 0
            tokens[layer] = filled(room, tokens[layer], new)
            if precision is None:
                nbytes = sum(room) * compute
            else:
                nbytes = precision.held_bytes(shape.head_dim, len(schedule) - 1, room)
            all_held -= held[layer]
            all_indices -= indices[layer]
            held[layer] = alike * nbytes
            everything = schedule.before(scale)
            dropped_from = [n for n in tokens[layer] if n < everything]
            indices[layer] = alike * (
                sum(dropped_from) * POSITION_BYTES + sum(tokens[layer]) * note_bytes
            )
            all_held += held[layer]
            all_indices += indices[layer]
            peak, index_peak = max(peak, all_held), max(index_peak, all_indices)
            most = (schedule.before(following),) * heads
            if limits is not None:
                most = limits.limits(following, layer, heads)
            next_room = all_rooms[following][layer]
            grown = read_in_place(schedule, scale, most, room, next_room)
            if scale and not (grown and as_computed and not on_host):
                joined = sum(tokens[layer]) + heads * schedule.tokens[scale]
                transient = max(transient, alike * joined * compute)
        by_scale.append(all_held)
    return CachePrediction(tuple(by_scale), peak, index_peak, transient)
