"""Heat maps of a calibration as PNG. Knows the numbers' names in its JSON; needs matplotlib, which
is imported when something is drawn."""

from __future__ import annotations

import io
from collections.abc import Mapping
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PIXELS_PER_INCH = 100


def index_map(numbers: Mapping[str, Any]) -> bytes:
    """The selectivity index as a map of layers and scales, drafters framed.

    Args:
        numbers: what the calibration's JSON says.
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    index = np.array(numbers["index"], dtype=float)[1:].T  # (layers, scales from the second on)
    layers, scales = index.shape
    size = (2.2 + 0.4 * scales, 1.4 + 0.26 * layers)
    figure = Figure(figsize=size, dpi=_PIXELS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(index, aspect="auto", cmap="viridis")
    figure.colorbar(shown, label="selectivity: low is a drafter")
    for scale, drafters in numbers["drafters"].items():
        for layer in drafters:
            corner = (int(scale) - 2.5, layer - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="red", linewidth=2))
    axes.set(xlabel="scale", ylabel="layer", title=_title(numbers))
    axes.set_xticks(range(scales), [str(scale + 2) for scale in range(scales)])
    axes.set_yticks(range(0, layers, _step(layers)))
    return _png(figure)


def mass_maps(numbers: Mapping[str, Any]) -> bytes:
    """S-CAS: for each layer a map of target and source scales, mean over heads.

    Args:
        numbers: what the calibration's JSON says.
    """
    import numpy as np
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    mass = np.array(numbers["s_cas"], dtype=float).mean(3)  # (target, source, layer)
    scales, _, layers = mass.shape
    later = np.triu(np.ones((scales, scales), dtype=bool), 1)
    columns = min(ceil(sqrt(2 * layers)), layers)
    rows = ceil(layers / columns)
    figure = Figure((1.5 * columns + 1, 1.5 * rows + 0.8), _PIXELS_PER_INCH, layout="constrained")
    grid: Any = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    # The square root shows the small masses on coarse scales beside the large ones.
    norm = PowerNorm(0.5, 0, 1)
    shown = None
    for layer, axes in enumerate(grid.flat):
        if layer >= layers:
            axes.set_visible(False)
            continue
        shown = axes.imshow(np.ma.array(mass[:, :, layer], mask=later), norm=norm, cmap="magma")
        _label(axes, layer, scales)
    assert shown is not None
    figure.colorbar(shown, ax=grid, label="share of a query's attention")
    figure.supxlabel("source scale")
    figure.supylabel("target scale")
    figure.suptitle(_title(numbers))
    return _png(figure)


def _label(axes: Axes, layer: int, scales: int) -> None:
    axes.set_title(f"layer {layer}", fontsize="small")
    ticks = range(0, scales, _step(2 * scales))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [str(tick + 1) for tick in ticks], fontsize="x-small")


def _step(count: int) -> int:
    return max(ceil(count / 16), 1)


def _title(numbers: Mapping[str, Any]) -> str:
    provenance = numbers["provenance"]
    return f"{provenance['model']}, {provenance['prompts']} prompts"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
