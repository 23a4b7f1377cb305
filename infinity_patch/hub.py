"""Where a preset's files are. Never downloads; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scalekv.configs.models import ModelPreset
from scalekv.kv.errors import UserError

BUILT_IN = Path(__file__).parent / "weights"


class WeightsMissing(UserError):
    """A file of the model is not on this machine; the fix names the command that fetches it."""


@dataclass(frozen=True)
class ModelPaths:
    """The files of one model on this machine; `text_encoder` is a folder."""

    transformer: Path
    vae: Path
    text_encoder: Path


def model_files(preset: ModelPreset, weights_dir: Path | None = None) -> ModelPaths:
    """The files of a preset: in `weights_dir`, else installed with the package.

    Raises:
        WeightsMissing: one is not there.
    """
    folder = weights_dir if weights_dir is not None else BUILT_IN / preset.name
    files = preset.files
    paths = ModelPaths(folder / files.transformer, folder / files.vae, folder / files.text_encoder)
    text_files = [paths.text_encoder / name for name in ("config.json", "tokenizer.json")]
    for path in (paths.transformer, paths.vae, paths.text_encoder, *text_files):
        if not path.exists():
            fix = f"scalekv download {preset.name}"
            if preset.built_in:
                fix = "install scalekv again: this model comes with it"
            raise WeightsMissing(
                f"{preset.name} is not complete on this machine: {path.name} is missing",
                where=str(path.parent if weights_dir is not None else preset.name),
                rule=f"it needs {files.transformer}, {files.vae} and {files.text_encoder}",
                fix=fix + (", or name another --weights-dir" if weights_dir is not None else ""),
            )
    return paths
