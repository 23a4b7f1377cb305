"""A coded cache of a run, before anything is loaded: its allocation of bits, and the bytes it will
take. Pure arithmetic; knows no tensors."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from scalekv.kv.budgets.budget import Budget
from scalekv.kv.budgets.shapes import uniform
from scalekv.kv.coded.allocation import Allocation, allocate, histogram
from scalekv.kv.coded.constants import Constants
from scalekv.kv.coded.levels import (
    KEPT,
    LEVELS,
    PLACE_BYTES,
    QUERIES,
    ROW_BYTES,
    SMALL,
    TOGETHER,
    WEIGHT_BYTES,
)
from scalekv.kv.coded.units import BANDS, groups_of
from scalekv.kv.errors import UserError
from scalekv.kv.memory.predicted import CachePrediction, CacheShape
from scalekv.kv.schedule import Schedule


def bytes_asked(budget: Budget, shape: CacheShape) -> int:
    """Bytes that a budget stands for: its share of the history's as attention computes them, or
    what so many tokens in every layer take."""
    if budget.nbytes is not None:
        return budget.nbytes
    whole = shape.bytes_of(budget.schedule.history)
    if budget.percent is not None:
        return int(budget.percent * whole / 100)
    return min(shape.bytes_of(budget.mean), whole)


def coded_budget(asked: Budget, constants: Constants | None = None) -> Budget:
    """The budget as coded caches are held to it, at every moment: its bytes, whichever layer they
    are in."""
    return replace(
        uniform(asked),
        bound="moment",
        percent=asked.percent,
        nbytes=asked.nbytes,
        origin="every token, in as many bytes",
    )


@lru_cache(maxsize=64)
def allocation_of(
    constants: Constants, budget: Budget, shape: CacheShape, guided: bool
) -> Allocation:
    """The bits of a picture's, or batch's, coded cache.

    Args:
        guided: whether the sequences are pairs of guidance halves.

    Raises:
        UserError: constants of another model, an odd number of halves, or too small a budget.
    """
    theirs = (constants.layers, constants.heads, constants.head_dim)
    if theirs != (shape.layers, shape.heads, shape.head_dim):
        raise UserError(
            "constants for {} layers of {} heads of {} channels".format(*theirs),
            where="constants of a coded cache",
            rule=f"this model has {shape.layers} layers of {shape.heads} heads of "
            f"{shape.head_dim} channels",
            fix="scalekv calibrate --coded makes them for a model",
        )
    if guided and shape.sequences % 2:
        raise UserError(
            f"{shape.sequences} sequences are no pairs of guidance halves",
            where="guided",
            rule="with guidance the conditional half of a batch comes first, then as many others",
            fix="guided=False where there is no unconditional half",
        )
    return allocate(
        constants,
        budget.schedule,
        guided=guided,
        pictures=shape.sequences // 2 if guided else shape.sequences,
        token_bytes=shape.bytes_per_token,
        budget_bytes=bytes_asked(budget, shape),
    )


def predicted_coded(allocation: Allocation, shape: CacheShape) -> CachePrediction:
    """What a coded cache will take; nothing of it is an index."""
    schedule = allocation.schedule
    joined = max((schedule.before(scale + 1) for scale in range(1, len(schedule))), default=0)
    return CachePrediction(
        scale_bytes=tuple(sum(row) for row in allocation.layer_bytes),
        held_peak_bytes=allocation.peak_bytes,
        index_peak_bytes=0,
        transient_peak_bytes=joined * shape.bytes_per_token,
    )


def decoding_bytes(schedule: Schedule, shape: CacheShape, by_kernels: bool) -> int:
    """Bytes beside the workspace while maps of one layer are decoded or coded, at most: three
    copies of a group's coefficients in float32, and several of what is worked on in one go.

    Args:
        by_kernels: then it is two copies, a byte for each code, and two times every channel's
            quantisers and places.
    """
    channels = 2 * shape.sequences * shape.heads * shape.head_dim
    groups = groups_of(schedule, channels)
    tokens = [sum(units.tokens for units in group) for group in groups]
    if by_kernels:
        units = [sum(len(units.sizes) for units in group) for group in groups]
        sizes = (9 * n + 16 * u for n, u in zip(tokens, units, strict=True))
        return channels * max(sizes, default=0)
    group = max(tokens, default=0) * channels
    return 4 * (3 * group + 6 * min(max(TOGETHER, group // shape.heads), group))


def table_bytes(constants: Constants, allocation: Allocation, by_kernels: bool) -> int:
    """Bytes of the tables of where codes lie that are kept after a picture, of all layers, at
    most.

    Args:
        by_kernels: whether kernels code and decode, which have smaller tables.
    """
    schedule, layers = allocation.schedule, constants.layers
    known = histogram(constants, schedule, allocation.guided)
    channels = constants.channels(allocation.parts)
    made = [0] * layers
    for scale in range(allocation.first, len(schedule)):
        codes = known.counts(scale, allocation.thresholds[scale]).sum(0)  # (maps, N)
        for group in groups_of(schedule, channels):
            held = [units for units in group if units.number < scale]
            tokens = sum(units.tokens for units in held)
            rows = channels * sum(len(units.sizes) for units in held)
            if by_kernels:
                of_unit = (1 + len(LEVELS)) * rows // constants.head_dim + 2 * rows // channels
                of_map = len(held) * channels // constants.head_dim
                made = [before + 4 * (of_unit + of_map + 3 * tokens) for before in made]
                continue
            small = channels * sum(units.tokens for units in group) <= SMALL
            same = WEIGHT_BYTES * rows
            for layer in range(layers):
                places = sum(int(codes[units.number, layer]) for units in held)
                made[layer] += same + (PLACE_BYTES * places if small else ROW_BYTES * rows)
    return sum(min(tables, KEPT // layers) for tables in made)


def calibration_bytes(
    schedule: Schedule, shape: CacheShape, gradients: bool = False
) -> tuple[int, int]:
    """Bytes that measuring the constants takes beside a full cache, at most: where attention
    computes, one layer at a time; and in the host's memory, of all layers until they are known.

    Args:
        gradients: their squares are added up in the host's memory too.
    """
    heads, dim, tokens = shape.heads, shape.head_dim, schedule.total
    width = heads * dim
    reach = 2 * shape.sequences * tokens * width + 2 * tokens * width  # k and v; v in the metric
    reach += 4 * heads * QUERIES * tokens + 4 * QUERIES * width + width * width
    newest = max(schedule.tokens[:-1], default=0)
    signals = 5 * 2 * shape.sequences * newest * width
    scatter = 2 * shape.layers * heads * dim * dim
    energy = 2 * 3 * shape.layers * width * (len(schedule) - 1) * BANDS
    return 4 * max(reach, signals), 8 * (3 * scatter + (9 if gradients else 7) * energy)
