"""Put the trained parts where the package carries them.

python -m scripts.builtin.ship --data data/builtin
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from scalekv.configs.whole_files import replacing
from scalekv.infinity_patch.files.hashes import write_sums
from scalekv.infinity_patch.files.hub import BUILT_IN

PARTS = {
    "transformer.safetensors": "transformer/transformer.safetensors",
    "vae.safetensors": "tokenizer/vae.safetensors",
    "text_encoder/config.json": "transformer/text_encoder/config.json",
    "text_encoder/model.safetensors": "transformer/text_encoder/model.safetensors",
    "text_encoder/tokenizer.json": "transformer/text_encoder/tokenizer.json",
    "text_encoder/tokenizer_config.json": "transformer/text_encoder/tokenizer_config.json",
}
MOST_BYTES = 40_000_000


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
        with replacing(target / name) as hidden:
            shutil.copyfile(data / source, hidden)
            hidden.chmod(0o644)
    write_sums(target, sorted(PARTS))
    return total


def main() -> None:
    """Copy, and say how much."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/builtin"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    args = parser.parse_args()
    print(f"{ship(args.data, BUILT_IN / 'emoji', args.only) / 1e6:.1f} MB in {BUILT_IN / 'emoji'}")


if __name__ == "__main__":
    main()
