"""A picture as the bytes of a file, with its settings inside: in chunks of text in PNG, in EXIF and
XMP in JPEG and WebP. And the texts of such a file, read again.

Knows formats of files; nothing of folders or of what settings mean.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from scalekv.cli.pictures.formats import FORMATS_BY_SUFFIX, PNG, SUFFIXES
from scalekv.cli.pictures.parameters import PARAMETERS, parameters_text
from scalekv.cli.pictures.xmp import packet, texts_of
from scalekv.kv.errors import UserError

FORMAT = 1
"""Version of the JSON in sidecars, pictures and reports; raised when a key changes its meaning."""

CHUNK = "scalekv"
"""Keyword of the PNG text chunk that holds the settings as JSON."""

PROMPT_CHUNK = "Description"
"""Keyword of the chunk with the prompt, one of those the PNG standard names; "prompt" and
"workflow" are what ComfyUI reads its graph from."""

JOB_CHUNK = "scalekv-job"
"""Keyword of the chunk by which a batch recognises its own picture."""

IMAGE_HASH = "image_sha256"
"""Key in the settings of a format that loses something: of the pixels before they were written."""

MOST_JPEG_BYTES = 60_000
"""Of one segment of a JPEG, which has 65,533; the rest is for what stands around the texts."""

_XMP_NAMES = {CHUNK: "settings", JOB_CHUNK: "job"}


@dataclass(frozen=True)
class Writing:
    """How pictures are written.

    Attributes:
        format: one of `PICTURE_FORMATS`.
        quality: of JPEG and WebP, from 1 to 100.
        metadata: whether the settings are written into the picture.
        named: the suffix, where a file was named: ".jpeg"; "": the format's own.
    """

    format: str = PNG
    quality: int = 95
    metadata: bool = True
    named: str = ""

    @property
    def suffix(self) -> str:
        """Of the files."""
        return self.named or SUFFIXES[self.format]

    @property
    def mark(self) -> tuple[str, int, bool] | None:
        """Equal where files are equal for equal pictures; None: as usual."""
        if self.format == PNG:
            return None if self.metadata else (PNG, 0, False)
        return self.format, self.quality, self.metadata

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Those that say this format."""
        return tuple(s for s, name in FORMATS_BY_SUFFIX.items() if name == self.format)

    def file(
        self,
        image: Image.Image,
        prompt: str,
        settings: Mapping[str, Any],
        job: str | None = None,
    ) -> bytes:
        """A picture as a file.

        Args:
            settings: enough to make the picture again.
            job: what a batch knows the picture by.
        """
        buffer = io.BytesIO()
        if self.format == PNG:
            texts = _png_texts(image, prompt, settings, job) if self.metadata else None
            image.save(buffer, format="PNG", pnginfo=texts)
        else:
            inside = _lossy_texts(image, settings, job) if self.metadata else {}
            kind = {"jpg": "JPEG", "webp": "WEBP"}[self.format]
            image.convert("RGB").save(buffer, format=kind, quality=self.quality, **inside)
        return buffer.getvalue()

    def check_room(self, prompt: str, negative: str | None) -> None:
        """Refuses prompts that the settings of a JPEG have no room for.

        Raises:
            UserError: they are too long.
        """
        if self.format != "jpg" or not self.metadata:
            return
        prompts = {"prompt": prompt, "negative": negative}
        packed = packet({"settings": json.dumps([prompts, negative])})
        if max(len(packed), 2 * len(prompt + (negative or ""))) > MOST_JPEG_BYTES:
            raise UserError(
                f"a prompt of {len(prompt):,} characters is too long for the settings of a JPEG",
                where="--format",
                rule="a JPEG has room for 64 KiB of settings",
                fix="--format webp or png, or --no-metadata",
            )


USUAL = Writing()
"""How pictures are written where nothing else is asked for."""


def image_hash(image: Image.Image) -> str:
    """SHA-256 of the pixels."""
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def embedded_texts(image: Image.Image) -> dict[str, str]:
    """The texts inside an image that was read, by the keywords that PNG has for them."""
    chunks = getattr(image, "text", None)
    if chunks is not None:
        return {name: str(text) for name, text in chunks.items()}
    data = image.info.get("xmp", b"")
    found = texts_of(data if isinstance(data, bytes) else str(data).encode())
    return {keyword: found[name] for keyword, name in _XMP_NAMES.items() if name in found}


def _json(settings: Mapping[str, Any]) -> str:
    return json.dumps({"format": FORMAT, **settings})


def _png_texts(
    image: Image.Image, prompt: str, settings: Mapping[str, Any], job: str | None
) -> PngInfo:
    texts = PngInfo()
    texts.add_text(CHUNK, _json(settings))
    texts.add_text(PROMPT_CHUNK, prompt)
    texts.add_text(PARAMETERS, parameters_text(settings, image.width, image.height))
    if job is not None:
        texts.add_text(JOB_CHUNK, job)
    return texts


def _lossy_texts(
    image: Image.Image, settings: Mapping[str, Any], job: str | None
) -> dict[str, Any]:
    """What Pillow's encoders of JPEG and WebP take for EXIF and XMP.

    The parameters are where AUTOMATIC1111 has them in these formats, in UTF-16 of big end first
    whatever the order of the rest, as it does.
    """
    texts = {CHUNK: _json({**settings, IMAGE_HASH: image_hash(image)})}
    if job is not None:
        texts[JOB_CHUNK] = job
    parameters = parameters_text(settings, image.width, image.height)
    exif = Image.Exif()
    comment = b"UNICODE\0" + parameters.encode("utf-16-be")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    named = {_XMP_NAMES[keyword]: text for keyword, text in texts.items()}
    return {"exif": exif, "xmp": packet(named)}
