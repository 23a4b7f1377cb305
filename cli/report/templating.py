"""Pages of HTML from the templates of this package: one that needs nothing but itself. Knows where
templates are and the pages' looks; nothing of what they say."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup


def render_template(name: str, **values: Any) -> str:
    """A page from `templates/NAME`, with the style that all pages share as `style`."""
    environment = Environment(
        loader=FunctionLoader(_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template(name)
    return template.render(style=Markup(_text("report.css")), **values)


def _text(name: str) -> str:
    folder = files("scalekv.cli.report").joinpath("templates")
    return folder.joinpath(name).read_text(encoding="utf-8")
