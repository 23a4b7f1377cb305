"""A picture's settings as the text that AUTOMATIC1111's web UI writes and many tools read: the
prompt, the negative prompt, and a last line of `Name: value` pairs, Steps first.

Source: its wiki, "Features", and what readers of it expect, which tests hold this to. Knows texts;
nothing of files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

PARAMETERS = "parameters"
"""Keyword of the PNG chunk that readers look for."""


def parameters_text(settings: Mapping[str, Any], width: int, height: int) -> str:
    """The text for a picture of `width` x `height` pixels.

    Args:
        settings: the picture's; those that are missing are left out.
    """
    schedule = str(settings.get("schedule", ""))
    pairs: dict[str, object] = {
        "Steps": len(schedule.split()) or 1,
        "Sampler": "Infinity",
        "CFG scale": _per_scale(settings.get("cfg")),
        "Seed": settings.get("seed"),
        "Size": f"{width}x{height}",
        "Model": settings.get("model"),
        "Temperature": _per_scale(settings.get("tau")),
        "Top P": settings.get("top_p"),
        "Cache policy": settings.get("policy"),
        "Cache budget": settings.get("budget"),
        "Cache dtype": settings.get("kv_dtype"),
        "Version": f"scalekv {settings.get('versions', {}).get('scalekv', '')}".strip(),
    }
    said = {name: str(value) for name, value in pairs.items() if value not in (None, "")}
    # The negative prompt has its line where it is empty too: without it ComfyUI reads nothing.
    return "\n".join(
        (
            str(settings.get("prompt", "")),
            f"Negative prompt: {settings.get('negative') or ''}",
            ", ".join(f"{name}: {_quoted(text)}" for name, text in said.items()),
        )
    )


def _per_scale(value: object) -> str:
    """One number where all are the same."""
    numbers = value if isinstance(value, list | tuple) else [value]
    words = [f"{number:g}" for number in numbers if isinstance(number, int | float)]
    return words[0] if len(set(words)) == 1 else ", ".join(words)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ',:\n"') else text
