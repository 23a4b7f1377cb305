"""The protocols of the papers: what is drawn, with what, and which caches are set side by side.

Rows of facts with where they are from; knows no pictures and no files.
"""

from __future__ import annotations

from dataclasses import dataclass

from scalekv.configs.budget_files import list_budgets
from scalekv.configs.models import ModelPreset
from scalekv.kv.errors import check_one_of


@dataclass(frozen=True)
class Protocol:
    """How a paper measures.

    Attributes:
        name: of the protocol.
        paper: where it is from; "": from none.
        policies: of the paper's own method.
        percents: of the history, the budgets of its tables.
        cfg, tau, top_p, seed: sampling; picture n has the seed `seed` + n.
        pixels, ratio: of the published models' pictures.
        pictures: how many.
        unstated: what the paper leaves open, and what is taken.

    What is None is as the model's preset has it.
    """

    name: str
    paper: str
    policies: tuple[str, ...]
    percents: tuple[int, ...]
    unstated: str
    cfg: float | None = 3.0
    tau: float | None = 1.0
    top_p: float | None = 0.97
    seed: int = 0
    pixels: str | None = "1M"
    ratio: str = "1:1"
    pictures: int = 5000

    def budgets_for(self, preset: ModelPreset) -> list[str]:
        """Its budgets: the published ones where the model has them, else shares of the history."""
        named = {spec.name for spec in list_budgets(preset.name)}
        exact = ((f"paper-{percent}", f"{percent}%") for percent in self.percents)
        return [name if name in named else share for name, share in exact]

    def pixels_for(self, preset: ModelPreset) -> str:
        """The pictures' size: the protocol's where the model draws it, else the model's own."""
        wanted = self.pixels
        return preset.pixels if wanted is None or wanted not in preset.pixel_classes else wanted


PROTOCOLS = {
    one.name: one
    for one in (
        Protocol(
            "scalekv",
            "arXiv 2505.19602",
            ("scalekv",),
            (20, 10, 4),
            "The paper names 5,000 COCO captions and no seeds, guidance or temperature; they are "
            "taken as HeatKV's released harness has them (github.com/arm-research/heatkv).",
        ),
        Protocol(
            "heatkv",
            "arXiv 2605.14877",
            ("heatkv",),
            (20, 10, 5),
            "Captions, seeds, guidance and measures are those of the released harness "
            "(github.com/arm-research/heatkv, generate_heatkv_coco5000_metrics.py).",
        ),
        Protocol(
            "preset",
            "",
            ("scalekv",),
            (20, 10),
            "Guidance, temperature and size are the model's own, as scalekv generate draws; the "
            "paper does not say its own.",
            cfg=None,
            tau=None,
            top_p=None,
            pixels=None,
        ),
    )
}


def protocol_named(name: str) -> Protocol:
    """A protocol by its name.

    Raises:
        UserError: there is none of that name.
    """
    check_one_of(name, PROTOCOLS, f"no protocol {name!r}", "--protocol")
    return PROTOCOLS[name]
