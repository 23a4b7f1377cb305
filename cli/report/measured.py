"""What a process that draws pictures says of itself: device, machine, weights, peaks of memory.

Knows pipelines and figures; nothing of pages or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from scalekv.cli import engine
from scalekv.cli.report.figures import peak_of

if TYPE_CHECKING:
    from scalekv.infinity_patch import Pipeline


@dataclass(frozen=True)
class ProcessFigures:
    """Plain values, which another process can be told.

    Attributes:
        dtype, weights_dtype: of the blocks' products, and how they hold their weights.
        machine: as `engine.machine` has it.
        weights_bytes: of each part's tensors.
        peaks: of each stage in bytes; present: bytes of the weights by part that were there.
        sources: what the peaks were read from, in words.
        graphs: recorded scales, where the device can have them.
        text_cache: prompts whose features were found or made, where they are kept.
    """

    device: str
    dtype: str
    weights_dtype: str
    machine: Mapping[str, Any]
    weights_bytes: Mapping[str, int]
    peaks: Mapping[str, Mapping[str, int]]
    present: Mapping[str, Mapping[str, int]]
    sources: tuple[str, ...]
    graphs: Mapping[str, Any] | None = None
    text_cache: Mapping[str, int] | None = None

    @classmethod
    def of(cls, pipeline: Pipeline) -> Self:
        """As things stand now."""
        stages = pipeline.stages
        return cls(
            device=str(pipeline.device),
            dtype=str(pipeline.dtype).removeprefix("torch."),
            weights_dtype=pipeline.weights,
            machine=engine.machine(pipeline),
            weights_bytes=pipeline.weights_bytes,
            peaks=stages.peaks(),
            present=stages.weights(),
            sources=tuple(stages.sources),
            graphs=pipeline.graphs.to_dict() if pipeline.graphs.possible else None,
            text_cache=None if pipeline.text.cache is None else pipeline.text.cache.to_dict(),
        )

    @property
    def highest_peak(self) -> int:
        """Bytes, over all stages."""
        return max((peak_of(peaks) for peaks in self.peaks.values()), default=0)
