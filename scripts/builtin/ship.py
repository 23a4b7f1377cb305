"""Put the trained parts where the package carries them.

python -m scripts.builtin.ship --data data/builtin   # of the trainings one by one
python -m scripts.builtin.ship --run OUT             # of train_gpu, its preset too
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import safe_open
from safetensors.torch import save_file

from scalekv.configs.whole_files import replacing
from scalekv.infinity_patch.files.hashes import write_sums
from scalekv.infinity_patch.files.hub import BUILT_IN
from scripts.builtin.gpu import files

PARTS = {
    "transformer.safetensors": "transformer/transformer.safetensors",
    "vae.safetensors": "tokenizer/vae.safetensors",
    "text_encoder/config.json": "transformer/text_encoder/config.json",
    "text_encoder/model.safetensors": "transformer/text_encoder/model.safetensors",
    "text_encoder/tokenizer.json": "transformer/text_encoder/tokenizer.json",
    "text_encoder/tokenizer_config.json": "transformer/text_encoder/tokenizer_config.json",
}
MOST_BYTES = 40_000_000
MOST_BYTES_OF_RUN = 28_000_000
PRESETS = Path(__file__).parents[2] / "configs" / "models"


def place(source: Path, path: Path) -> None:
    """Copy a file that everybody may read, whole or not at all."""
    with replacing(path) as hidden:
        shutil.copyfile(source, hidden)
        hidden.chmod(0o644)


def ship(data: Path, target: Path, names: Sequence[str]) -> int:
    """Copy these parts, each whole or not at all; the bytes that all parts then take."""
    total = sum(
        (data / source if name in names else target / name).stat().st_size
        for name, source in PARTS.items()
    )
    assert total <= MOST_BYTES, f"{total} bytes, at most {MOST_BYTES} may be shipped"
    for name in names:
        source = PARTS[name]
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        place(data / source, target / name)
    write_sums(target, sorted(PARTS))
    return total


def ship_run(run: Path, target: Path, preset: Path) -> int:
    """Put what `train_gpu` left into the package, and its preset at `preset`; the bytes of all.

    The text encoder's settings and its words stay as they are: no run changes them.
    """
    with safe_open(run / files.TRANSFORMER[0], "pt") as file:
        notes = file.metadata()
    with TemporaryDirectory() as folder:
        whole = Path(folder) / "transformer.safetensors"
        save_file(files.load_transformer(run), whole, metadata=notes)
        new = {
            "transformer.safetensors": whole,
            "vae.safetensors": run / files.VAE,
            "text_encoder/model.safetensors": run / files.TEXT,
        }
        total = sum(new.get(name, target / name).stat().st_size for name in PARTS)
        most = MOST_BYTES_OF_RUN
        assert total <= most, f"{total} bytes, at most {most} may be shipped"
        for name, source in new.items():
            place(source, target / name)
    place(run / files.PRESET, preset)
    write_sums(target, sorted(PARTS))
    return total


def main() -> None:
    """Copy, and say how much."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/builtin"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--run", type=Path, metavar="OUT", help="what train_gpu wrote")
    args = parser.parse_args()
    target = BUILT_IN / "emoji"
    if args.run is not None:
        total = ship_run(args.run, target, PRESETS / files.PRESET)
    else:
        total = ship(args.data, target, args.only)
    print(f"{total / 1e6:.1f} MB in {target}")


if __name__ == "__main__":
    main()
