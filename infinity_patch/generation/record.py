"""A request as JSON values in a picture, and back, so that the picture can be made again. Knows
requests and files; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.files.hashes import quick_hash

OF_THE_RUN = ("prompts", "seed", "seeds", "num_images", "batch_size", "reproducible")
"""What a request says of all its pictures together."""

_FILES = (".yaml", ".yml", ".json")


def record(request: Request, *, patched_outside: bool = False) -> dict[str, Any]:
    """What a picture needs of its request besides prompt and seed.

    Args:
        patched_outside: its caches are those of a `with patched(...)` block of the caller's.

    Returns:
        "request": the fields; "files": fingerprints of the files they name; "objects": fields that
        held an object of a program, which no file can hold.
    """
    held: dict[str, Any] = {}
    objects = ["patched block"] if patched_outside else []
    for field in fields(request):
        value = getattr(request, field.name)
        if field.name in OF_THE_RUN:
            continue
        if _plain(value):
            held[field.name] = value
        else:
            objects.append(field.name)
    return {"request": held, "files": named_files(held), "objects": objects}


def named_files(held: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprints of the files that a policy or a budget names and that are there."""
    found = {}
    for name in ("policy", "budget"):
        text = str(held.get(name) or "")
        for part in (text, text.partition(":")[2]):
            if part.endswith(_FILES) and Path(part).expanduser().is_file():
                found[part] = quick_hash(Path(part).expanduser())
    return found


def request_from(held: Mapping[str, Any], prompt: str, seed: int) -> Request:
    """The request of one picture, alone, from what `record` kept.

    Raises:
        TypeError: a field that requests do not have.
    """
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in held.items()
    }
    return Request(prompts=(prompt,), seed=seed, reproducible=True, **values)


def _plain(value: object) -> bool:
    if value is None or isinstance(value, str | int | float):
        return True
    return isinstance(value, Sequence) and all(isinstance(entry, int | float) for entry in value)
