"""What a run leaves: few files, none large, written whole; and how they are read again.

Knows tensors by name; nothing of trainings.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from scalekv.configs.whole_files import replace_text, replacing
from scripts.builtin.gpu.start import PRESET_FILE, SCALES
from scripts.builtin.training import shipped

MOST_FILES, MOST_BYTES = 8, 16_000_000
VAE, TEXT = "vae.safetensors", "text_encoder.safetensors"
TRANSFORMER = ("transformer-1-of-2.safetensors", "transformer-2-of-2.safetensors")
PRESET, LOG = "emoji.yaml", "run.json"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], scales: int) -> None:
    """Averaged weights in bfloat16, with the note of how many scales they know."""
    path.parent.mkdir(parents=True, exist_ok=True)
    notes = {"format": "pt", SCALES: str(scales)}
    with replacing(path) as hidden:
        save_file({n: t.cpu() for n, t in shipped(tensors).items()}, hidden, metadata=notes)
        size = hidden.stat().st_size
        assert size <= MOST_BYTES, f"{path.name}: {size} bytes, at most {MOST_BYTES}"


def save_transformer(out: Path, tensors: Mapping[str, Tensor], scales: int) -> None:
    """A transformer in two files, the first half of its tensors by name in the first."""
    names = sorted(tensors)
    middle = len(names) // 2
    for file, part in zip(TRANSFORMER, (names[:middle], names[middle:]), strict=True):
        save_tensors(out / file, {name: tensors[name] for name in part}, scales)


def load_transformer(out: Path) -> dict[str, Tensor]:
    """All tensors of a transformer that `save_transformer` wrote."""
    return {name: t for file in TRANSFORMER for name, t in load_file(out / file).items()}


def save_log(out: Path, log: Mapping[str, Any]) -> None:
    """What the run did so far, and the preset the weights belong to."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PRESET_FILE, out / PRESET)
    replace_text(out / LOG, json.dumps(log, indent=1) + "\n")


def check(out: Path) -> None:
    """That what lies in `out` may be brought back."""
    files = [path for path in out.iterdir() if path.is_file()]
    assert len(files) <= MOST_FILES, sorted(path.name for path in files)
    for path in files:
        assert path.stat().st_size <= MOST_BYTES, f"{path.name}: {path.stat().st_size} bytes"
