"""What is shown to people, with nothing in it that a terminal would obey: text from prompts, files
and names is shown, never done.

Knows rich and characters; nothing of what is said.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.segment import Segment

_ALLOWED = "\n\t"
_REORDERS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
"""Characters that show the text after them in another order than it has (Unicode, UAX 9)."""


def harmless(text: str) -> str:
    """The text with escapes in place of control characters: ESC becomes the four letters \\x1b."""
    if text.isprintable():
        return text
    return "".join(ascii(c)[1:-1] if _is_control(c) else c for c in text)


def _is_control(character: str) -> bool:
    if character in _ALLOWED:
        return False
    return unicodedata.category(character) == "Cc" or ord(character) in _REORDERS


class Terminal(Console):
    """A console whose own colours and movements are the only ones that reach the terminal."""

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of what is shown, those of text made harmless."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(harmless(segment.text), segment.style)
