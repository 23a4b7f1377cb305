"""What a run takes in memory, part by part and stage by stage, by arithmetic alone: nothing is
loaded, no torch.

The cache's bytes are exact. What the rest of the code keeps alive at once is written down here as
formulas; a test counts the tensors of the real code, on shapes alone, and holds the formulas to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from scalekv.configs.models import ModelPreset
from scalekv.configs.spec import EIGHT_BITS
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.infinity_patch.model import parameters
from scalekv.infinity_patch.pieces import ROWS, padded_text
from scalekv.infinity_patch.planning.decoding import decoder_bytes, decoding
from scalekv.kv.budgets.budget import Budget
from scalekv.kv.errors import UserError
from scalekv.kv.memory.predicted import CachePrediction, CacheShape, predicted
from scalekv.kv.precision import ELEMENT_BYTES, precision_of
from scalekv.kv.schedule import Schedule

if TYPE_CHECKING:
    from scalekv.kv.coded.constants import Constants

TEXT_TOKENS = 128
"""Of a prompt, where nobody says: twice a usual one."""

CONTEXT = 600 << 20
"""Bytes a CUDA process takes besides what torch allocates: context, kernels, libraries."""

LIBRARIES = 64 << 20
"""Bytes that torch allocates for the products' libraries on a device, once the first was made:
32 MiB each for cuBLAS and cuBLASLt on Hopper, where they take most."""

HOST = 460 << 20
"""Resident bytes of Python with torch and transformers once a picture was drawn, tensors apart."""

FRAGMENTED = 0.04
"""Share of its tensors' bytes that torch's allocator takes beyond them, in pieces it cannot use."""

Parts = dict[str, int]
"""Bytes by what they are for; the same names as in the memory report, and `runtime`."""


@dataclass(frozen=True)
class Work:
    """What is to be generated, as far as memory depends on it.

    Attributes:
        schedule: the scales that are drawn.
        picture: all scales of the picture.
        budget: as the policy plans it; None: everything is kept.
        pictures: at once.
        guided: whether every picture has an unconditional half.
        device: "cuda" or "cpu".
        dtype: of the blocks, one of `ELEMENT_BYTES`.
        kv_dtype: of the held cache; "auto": as `dtype`.
        kv_on_host: whether the held cache stays in the host's memory.
        note_bytes: of the policy's notes on one held token.
        constants: of a policy that stores tokens by them, whose budget is one of bytes; None: of
            any other.
        text_tokens: of the longest prompt.
        again: whether pictures of this shape come more than once, as far as is known.
    """

    preset: ModelPreset
    schedule: Schedule
    picture: Schedule
    budget: Budget | None
    pictures: int = 1
    guided: bool = True
    device: str = "cuda"
    dtype: str = "bf16"
    kv_dtype: str = "auto"
    kv_on_host: bool = False
    placement: Placement = field(default_factory=Placement)
    note_bytes: int = 0
    constants: Constants | None = None
    text_tokens: int = TEXT_TOKENS
    again: bool = False

    @property
    def recorded(self) -> bool:
        """Whether the scales are recorded, so that their memory is kept for the next picture."""
        able = self.device == "cuda" and not self.placement.offload and not self.kv_on_host
        return able and {"on": True, "off": False}.get(self.placement.graphs, self.again)

    @property
    def weights(self) -> str:
        """How the blocks hold theirs, "int8", "fp8", or as `dtype`."""
        return self.placement.weights if self.in_8_bits else self.dtype

    @property
    def in_8_bits(self) -> bool:
        """Whether the blocks hold their weights in 8 bits."""
        return self.placement.weights in EIGHT_BITS

    @property
    def text_rows(self) -> int:
        """Rows that a text takes; on a device they come in few lengths."""
        if self.device != "cuda":
            return self.text_tokens
        return padded_text(self.text_tokens, self.preset.transformer.text_max)

    @property
    def sequences(self) -> int:
        """Rows of the transformer's batch."""
        return self.pictures * (2 if self.guided else 1)

    @property
    def shape(self) -> CacheShape:
        """Of the caches."""
        spec, element = self.preset.transformer, ELEMENT_BYTES[self.dtype]
        return CacheShape(spec.depth, self.sequences, spec.heads, spec.head_dim, element, element)

    def of(self, pictures: int) -> Work:
        """The same with another number of pictures at once."""
        return replace(self, pictures=pictures)


@dataclass(frozen=True)
class Footprint:
    """The memory of a run on its device.

    Attributes:
        work: what it is of.
        cache: the caches' bytes by arithmetic; on the host where they are held there.
        stages: what each stage holds at its fullest moment.
    """

    work: Work
    cache: CachePrediction
    stages: dict[str, Parts]

    @cached_property
    def totals(self) -> dict[str, int]:
        """Bytes of each stage, tensors alone: what torch says it has allocated."""
        return {
            stage: sum(count for part, count in parts.items() if part != "runtime")
            for stage, parts in self.stages.items()
        }

    @cached_property
    def peak(self) -> int:
        """Bytes of the tensors of the fullest stage."""
        return max(self.totals.values())

    @cached_property
    def needed(self) -> int:
        """Bytes of memory to have for the run: the peak, what the process takes besides, and what
        the allocator of a device cannot use."""
        slack = int(FRAGMENTED * self.peak) if self.work.device == "cuda" else 0
        return self.peak + slack + _runtime(self.work)


def footprint(work: Work) -> Footprint:
    """The memory of a run.

    Raises:
        UserError: the text encoder's sizes are not known, or a budget that cannot be.
    """
    shape = work.shape
    if work.constants is not None and work.budget is not None:
        from scalekv.kv.coded.plan import allocation_of, predicted_coded

        allocation = allocation_of(work.constants, work.budget, shape, work.guided)
        cache = predicted_coded(allocation, shape)
    else:
        precision = precision_of(work.kv_dtype, work.dtype)
        cache = predicted(
            work.schedule, shape, work.budget, precision, work.note_bytes, work.kv_on_host
        )
    loading = weights = weight_parts(work)
    encoding = weights | {"everything_else": _encoding(work)}
    if work.placement.keep_text_encoder is False or work.placement.text_first:
        weights = weights | {"text_encoder": 0}
    if work.placement.text_first:
        encoding |= {"transformer": 0, "vae": 0}
    if work.placement.text_first or work.placement.text_cache is not None:
        loading = loading | {"text_encoder": 0}  # it is read when a text is encoded
    held, moment = _fullest_scale(work, cache)
    on_device = {
        "cache_held": held,
        "cache_index": cache.index_peak_bytes,
        "cache_transient": cache.transient_peak_bytes * (2 if work.kv_on_host else 1),
        "cache_constants": 0 if work.constants is None else work.constants.nbytes,
    }
    stages = {
        "load": loading,
        "encode": encoding,
        "scales": weights | on_device | {"everything_else": moment},
        "decode": weights | {"everything_else": _between(work) + decoding(work) + _kept(work)},
    }
    if work.recorded:  # tensors of the scales stay where they are recorded; a picture is decoded
        kept = sum(on_device.values()) + moment - _between(work) - _kept(work)
        stages["decode"] |= {"recorded": kept - on_device["cache_constants"]}
    names = (*weights, *on_device, "recorded", "everything_else")
    return Footprint(
        work,
        cache,
        {
            stage: {name: parts.get(name, 0) for name in names} | {"runtime": _runtime(work)}
            for stage, parts in stages.items()
        },
    )


def weight_parts(work: Work) -> Parts:
    """Bytes of the weights on the device, all of them loaded."""
    inside, around = transformer_bytes(work.preset, work.dtype, work.weights)
    if work.placement.offload:  # two blocks at a time: one that computes, one on its way
        inside = inside // work.preset.transformer.depth * 2
    encoder, decoder = parameters.autoencoder(work.preset.tokenizer)
    return {
        "transformer": inside + around,
        "vae": encoder * 4 + decoder * decoder_bytes(work),
        "text_encoder": 0 if _text_elsewhere(work) else _text_weights(work),
    }


def transformer_bytes(preset: ModelPreset, dtype: str, weights: str) -> tuple[int, int]:
    """Bytes of the weights in the transformer's blocks, and around them.

    Args:
        weights: "int8" or "fp8"; anything else: in `dtype`.
    """
    spec, element = preset.transformer, ELEMENT_BYTES[dtype]
    inside = parameters.blocks(spec) * element
    if weights in EIGHT_BITS:
        numbers, rows = parameters.linear_layers(spec)
        inside += numbers + 4 * rows - numbers * element
    return inside, parameters.around_blocks(spec, preset.tokenizer.token_bits) * 4


def _text_elsewhere(work: Work) -> bool:
    """Whether the text encoder never comes to the device."""
    placement = work.placement
    return not placement.text_read or placement.text_device not in ("auto", work.device)


def _text_weights(work: Work) -> int:
    spec = work.preset.text
    if spec is None:
        raise UserError(
            f"the sizes of {work.preset.name}'s text encoder are not known",
            where="key text of the preset",
            rule="a plan needs layers, heads, head_width, hidden and vocabulary of the encoder",
            fix="add them to the preset, as its text encoder's config.json has them",
        )
    rest, kept = parameters.text_encoder(spec, work.preset.transformer.text_width)
    dtype = work.placement.text_dtype_on(work.device)
    if work.placement.text_dtype == "int8":
        numbers, rows = parameters.text_linear_layers(spec, work.preset.transformer.text_width)
        return numbers + 4 * rows + (rest + kept - numbers) * ELEMENT_BYTES[dtype]
    return rest * ELEMENT_BYTES[dtype] + kept * (4 if dtype == "fp16" else ELEMENT_BYTES[dtype])


def _runtime(work: Work) -> int:
    return CONTEXT if work.device == "cuda" else HOST


def _encoding(work: Work) -> int:
    """Activations of the text encoder, which takes one prompt at a time."""
    spec = work.preset.text
    if spec is None or _text_elsewhere(work):
        return 0
    element = ELEMENT_BYTES[work.placement.text_dtype_on(work.device)]
    tokens = work.text_tokens
    width = work.preset.transformer.text_width
    hidden = tokens * (3 * spec.hidden + 6 * width) * element
    if work.placement.text_dtype == "int8":  # a layer's weights, written out to be multiplied
        hidden += width * max(spec.hidden, spec.heads * spec.head_width) * 4
    return hidden + 3 * spec.heads * tokens**2 * 4


def _between(work: Work) -> int:
    """What stays from the text encoder's features to the last picture: the features, float32."""
    return work.pictures * work.text_tokens * work.preset.transformer.text_width * 4


def _fullest_scale(work: Work, cache: CachePrediction) -> tuple[int, int]:
    """Held bytes, and everything besides weights and cache, at the fullest moment of the scales.

    While the last scale is generated nothing is written to the caches any more, so that what is
    held then is known; while earlier ones are, it is at most the highest of all moments.
    """
    spec, schedule = work.preset.transformer, work.schedule
    element, width = ELEMENT_BYTES[work.dtype], spec.width
    # of the text: every block's keys and values, and its modulation, float32
    text = 2 * spec.depth * work.sequences * work.text_rows * width * element
    modulation = 6 * spec.depth * work.sequences * width * 4
    always = _between(work) + text + modulation + _kept(work)
    history = tables = 0
    if work.constants is not None:
        from scalekv.kv.coded.plan import allocation_of, decoding_bytes, table_bytes

        assert work.budget is not None, "constants are of a policy that takes one"
        coded = allocation_of(work.constants, work.budget, work.shape, work.guided)
        by_kernels = work.device == "cuda"
        history = decoding_bytes(schedule, work.shape, by_kernels)
        tables = table_bytes(work.constants, coded, by_kernels)
    moments = []
    for scale, tokens in enumerate(schedule.tokens):
        last = scale + 1 == len(schedule)
        held = cache.scale_bytes[scale] if last else cache.held_peak_bytes
        rows = tokens * work.sequences
        moment = _block(work, rows)
        if history:
            # a layer's history is decoded beside the stream, the layer's input, q, k and v
            attending = rows * width * (8 + 4 * element)
            moment = max(moment, attending + history) + tables
        rest = always + moment
        moments.append((0 if work.kv_on_host else held, rest))
    return max(moments, key=sum)


def _kept(work: Work) -> int:
    """What stays from the first scale on: each token's angles, as tables and as complex numbers,
    and what the libraries took."""
    angles = 2 * work.schedule.total * work.preset.transformer.head_dim * 4
    return angles + (LIBRARIES if work.device == "cuda" else _written(work))


def _written(work: Work) -> int:
    """Memory in which weights of 8 bits are written out to be multiplied: of a CPU, which keeps it,
    those that a chain of operations needs; elsewhere of the largest layer."""
    if not work.in_8_bits:
        return 0
    spec, element = work.preset.transformer, ELEMENT_BYTES[work.dtype]
    layer = spec.width * parameters.mlp_width(spec.width)
    if work.device != "cpu" or work.schedule.tokens[-1] * work.sequences <= ROWS:
        return layer * element
    return (2 * spec.width**2 + 2 * layer) * element


def _block(work: Work, rows: int) -> int:
    """The fullest moment of a block for so many tokens of all sequences together.

    Alive is always the residual stream, in float32. In attention, on the text too, there are five
    tensors besides in the blocks' dtype: the layer's input, its product (three of them, then) or
    queries, answer and projection, and the answer of the layer before. In the feed-forward these
    are the answer before, its input, its hidden values and its answer; in float32, where GELU is a
    step of its own, the hidden values before and after it.

    A CPU turns queries and keys in float32 and goes through more than `ROWS` in chunks, so that of
    all rows there are the stream and either what goes into attention, q, the answer, a copy of it
    and its projection, or the answer and a chunk.
    """
    width, element = work.preset.transformer.width, ELEMENT_BYTES[work.dtype]
    stream, hidden = 4 * width, parameters.mlp_width(width) * element
    attention = 5 * width * element
    inside = hidden if element == 4 else width * element
    together = stream + max(attention, 2 * width * element + hidden + inside)
    if work.device != "cpu":
        return rows * together + _written(work)
    turning = (2 if element == 4 else 4) * stream + 5 * width * element
    together = stream + max(turning, 2 * (width * element + hidden))
    if rows <= ROWS:
        return rows * together
    return max(rows * (stream + attention), rows * (stream + width * element) + ROWS * together)
