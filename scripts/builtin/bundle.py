"""Packs what a GPU machine without network needs to train the next built-in model.

    python -m scripts.builtin.bundle --out data/builtin/bundle

A folder beside which the checkout is enough: the drawings as SVG, the feature network's weights in
half precision without its classifier, and the wheels of what only this recipe needs. What it needs
on that machine besides: Python 3.11 or later with torch, numpy, pillow, safetensors, tokenizers,
transformers, pyyaml and huggingface_hub. Knows files; nothing of trainings.
"""

from __future__ import annotations

import argparse
import json
import lzma
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalekv.configs.whole_files import replace_text
from scalekv.infinity_patch.files.hashes import sha256_of
from scripts.builtin.captions import Row
from scripts.builtin.dataset import DEFAULT_FOLDER, STYLES, assemble, sources

DRAWINGS, BACKBONE, WHEELS = "drawings.jsonl.xz", "backbone.safetensors", "wheels"
MANIFEST = "manifest.json"
MOST_BYTES = 18_000_000
CARRIED = ("resvg-py", "efficientnet-lite-pytorch")
"""Distributions that no such machine has, each small and without needs of its own."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def pack_drawings(path: Path, rows: Sequence[Row], svgs: Sequence[str]) -> None:
    """Rows and drawings, a line each; style after style, which packs smaller."""
    order = sorted(range(len(rows)), key=lambda i: (list(STYLES).index(rows[i]["style"]), i))
    lines = (json.dumps({"row": rows[i], "svg": svgs[i]}, ensure_ascii=False) for i in order)
    text = "".join(line + "\n" for line in lines)
    path.write_bytes(lzma.compress(text.encode("utf-8"), preset=6))


def pack_backbone(path: Path) -> None:
    """The feature network's weights as far as its maps need them, in half precision."""
    import torch
    from safetensors.torch import save_file

    from scalekv.infinity_patch.evaluation.backbone import UNUSED, backbone

    tensors = {
        name: tensor.half() if tensor.dtype == torch.float32 else tensor
        for name, tensor in backbone().net.state_dict().items()
        if not name.startswith(UNUSED)
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def pack_wheels(folder: Path, constraints: Path) -> None:
    """The wheels of CARRIED at the versions of the tested set.

    Raises:
        SystemExit: a version is not pinned, or pip cannot fetch one.
    """
    pins = [line.split("#")[0].strip() for line in constraints.read_text().splitlines()]
    pinned = {pin.split("==")[0].replace("_", "-").lower(): pin for pin in pins if "==" in pin}
    if missing := [name for name in CARRIED if name not in pinned]:
        raise SystemExit(f"{constraints} pins no version of {', '.join(missing)}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), "--python-version", "3.11"]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    if subprocess.run([*command, *(pinned[name] for name in CARRIED)], check=False).returncode:
        raise SystemExit("pip could not fetch the wheels\nfix: call again with a network")


def manifest_of(folder: Path) -> dict[str, Any]:
    """What a bundle holds: packages, and checksum and size of each file."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {
        "packages": [f"{package.name}@{package.version}" for package in sources(STYLES)],
        "files": {
            str(path.relative_to(folder)): {
                "bytes": path.stat().st_size,
                "sha256": sha256_of(path),
            }
            for path in files
        },
    }


def check(folder: Path) -> None:
    """That a bundle is whole.

    Raises:
        SystemExit: there is none, or a file is not what the manifest says.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise SystemExit(f"no bundle at {folder}\nfix: python -m scripts.builtin.bundle")
    listed, found = json.loads(manifest.read_text())["files"], manifest_of(folder)["files"]
    if listed != found:
        wrong = sorted(name for name in listed | found if listed.get(name) != found.get(name))
        raise SystemExit(f"{folder} is damaged: {', '.join(wrong)}\nfix: make it again")


def main() -> None:
    """Make a bundle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER / "bundle")
    parser.add_argument("--cache", type=Path, default=DEFAULT_FOLDER / "cache")
    parser.add_argument("--constraints", type=Path, default=Path("constraints.txt"))
    args = parser.parse_args()
    (args.out / WHEELS).mkdir(parents=True, exist_ok=True)
    for old in (args.out / WHEELS).iterdir():
        old.unlink()
    pack_wheels(args.out / WHEELS, args.constraints)
    pack_drawings(args.out / DRAWINGS, *assemble(args.cache, tuple(STYLES)))
    pack_backbone(args.out / BACKBONE)
    manifest = manifest_of(args.out)
    replace_text(args.out / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    total = sum(file["bytes"] for file in manifest["files"].values())
    assert total <= MOST_BYTES, f"{total} bytes, at most {MOST_BYTES} may be carried"
    print(f"{total / 1e6:.1f} MB in {args.out}")


if __name__ == "__main__":
    main()
