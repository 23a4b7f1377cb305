"""The notebook of the documentation: runs its cells and keeps what they show, or turns it into a
page of the site. Knows the form of notebooks; there is no kernel, cells are run in this process.

python -m scripts.notebook
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs/notebooks/two-prompts.ipynb"
PAGE = "notebook.md"

Cell = dict[str, Any]


def read_notebook(path: Path = NOTEBOOK) -> dict[str, Any]:
    """The notebook as JSON."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def source_of(cell: Cell) -> str:
    """What is in a cell."""
    return "".join(cell["source"])


def run_cells(notebook: dict[str, Any]) -> Iterator[list[Cell]]:
    """Runs the code cells one after another in one namespace; yields what each shows: its text, and
    the figures that it has left open."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    scope: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(notebook), start=1):
        with redirect_stdout(io.StringIO()) as told:
            exec(compile(source_of(cell), f"cell {number}", "exec"), scope)
        shown: list[Cell] = []
        if told.getvalue():
            lines = told.getvalue().splitlines(keepends=True)
            shown.append({"output_type": "stream", "name": "stdout", "text": lines})
        for figure in map(plt.figure, plt.get_fignums()):
            drawn = io.BytesIO()
            figure.savefig(drawn, format="png", dpi=80)
            png = base64.b64encode(drawn.getvalue()).decode()
            shown.append(
                {"output_type": "display_data", "data": {"image/png": png}, "metadata": {}}
            )
        plt.close("all")
        yield shown


def code_cells(notebook: dict[str, Any]) -> list[Cell]:
    """The cells that are run."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def as_page(notebook: dict[str, Any]) -> str:
    """The notebook as Markdown: text as it is, code and what it shows in blocks, figures within."""
    parts = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append(source_of(cell))
            continue
        parts.append(f"```python\n{source_of(cell)}\n```")
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                parts.append("```text\n" + "".join(output["text"]).rstrip("\n") + "\n```")
            else:
                png = output["data"]["image/png"]
                parts.append(f"![what the cell draws](data:image/png;base64,{png})")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Runs the notebook and keeps what it shows."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    notebook = read_notebook()
    for cell, shown in zip(code_cells(notebook), run_cells(notebook), strict=True):
        cell["outputs"] = shown
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(NOTEBOOK.relative_to(ROOT), file=sys.stderr)


if __name__ == "__main__":
    main()
