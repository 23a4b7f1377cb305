"""Pictures as files: what is inside them, read by us and by the rules of other tools."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from scalekv.cli.pictures.settings import read_picture
from scalekv.cli.pictures.writing import JOB_CHUNK, USUAL, Writing, embedded_texts, image_hash
from scalekv.cli.pictures.xmp import NAMESPACE, packet, texts_of
from scalekv.kv.errors import UserError

PROMPTS = [
    "a red apple",
    'ein "Löwe", Größe: 3 €\nauf {zwei|drei} <Stühlen> & mehr',
    "鷲 \U0001f989",
]
FORMATS = [USUAL, Writing("jpg", 90), Writing("webp", 80)]


def settings_of(prompt: str, **other: Any) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "seed": 7,
        "policy": "scalekv",
        "budget": "10%",
        "kv_dtype": "bf16",
        "model": "emoji",
        "cfg": [3.0] * 7,
        "tau": [0.5, 0.6],
        "top_p": 0.0,
        "schedule": "1x1 2x2 4x4 6x6 8x8 12x12 16x16",
        "negative": None,
        "versions": {"scalekv": "0.2.0"},
        **other,
    }


def picture() -> Image.Image:
    return Image.linear_gradient("L").resize((48, 32)).convert("RGB")


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def parameters_of(data: bytes) -> str:
    """Where AUTOMATIC1111 puts them: a chunk in PNG, EXIF's UserComment in JPEG and WebP."""
    image = opened(data)
    if image.format == "PNG":
        return str(image.info["parameters"])
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert comment[:8] == b"UNICODE\0"
    return str(comment[8:].decode("utf-16-be"))


@pytest.mark.parametrize("writing", FORMATS, ids=lambda w: w.format)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_settings_come_back(tmp_path: Path, writing: Writing, prompt: str) -> None:
    settings = settings_of(prompt)
    path = tmp_path / f"x{writing.suffix}"
    path.write_bytes(writing.file(picture(), prompt, settings, "mark"))
    found = read_picture(path)
    assert settings.items() <= found.settings.items()
    assert found.image.size == (48, 32)
    assert embedded_texts(found.image)[JOB_CHUNK] == "mark"
    if writing.format != "png":
        assert found.settings["image_sha256"] == image_hash(picture())


@pytest.mark.parametrize("writing", FORMATS, ids=lambda w: w.format)
def test_nothing_inside_where_nothing_is_wanted(tmp_path: Path, writing: Writing) -> None:
    bare = Writing(writing.format, writing.quality, metadata=False)
    path = tmp_path / f"x{bare.suffix}"
    path.write_bytes(bare.file(picture(), "a secret", settings_of("a secret"), "mark"))
    assert b"secret" not in path.read_bytes()
    assert read_picture(path).settings == {}
    assert not opened(path.read_bytes()).getexif()
    assert image_hash(opened(path.read_bytes())) == image_hash(
        opened(writing.file(picture(), "a secret", settings_of("a secret")))
    )


def test_quality_is_heeded() -> None:
    for name in ("jpg", "webp"):
        sizes = [len(Writing(name, q).file(picture(), "x", settings_of("x"))) for q in (10, 95)]
        assert sizes[0] < sizes[1]


# The rules of AUTOMATIC1111's web UI: the last line counts as parameters if at least three pairs
# `Name: value` are found in it; what begins with "Negative prompt:" and all lines after it are the
# negative prompt; values in double quotes are JSON; a size is two numbers.
PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def read_by_webui(text: str) -> tuple[str, str, dict[str, str]]:
    *lines, last = text.strip().split("\n")
    if len(PAIR.findall(last)) < 3:
        lines, last = [*lines, last], ""
    prompts: tuple[list[str], list[str]] = ([], [])
    negative = False
    for line in map(str.strip, lines):
        negative = negative or line.startswith("Negative prompt:")
        prompts[negative].append(line.removeprefix("Negative prompt:").strip())
    pairs = {k: json.loads(v) if v[:1] == '"' else v for k, v in PAIR.findall(last)}
    return "\n".join(prompts[0]), "\n".join(prompts[1]), pairs


# The rules of sd-browser, which looks for whole parts: the prompt ends at a line "Negative
# prompt:", the negative prompt at a line "Steps: " with a number, with which the parameters begin.
def read_by_browser(text: str) -> tuple[str, str, str]:
    found = re.fullmatch(r"([\s\S]*?)\nNegative prompt: ([\s\S]*?)\n(Steps: \d+[\s\S]*)", text)
    assert found is not None
    return found[1], found[2], found[3]


@pytest.mark.parametrize("writing", FORMATS, ids=lambda w: w.format)
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("negative", [None, "blur, noise: any\nor text"])
def test_other_tools_read_the_parameters(
    writing: Writing, prompt: str, negative: str | None
) -> None:
    data = writing.file(picture(), prompt, settings_of(prompt, negative=negative))
    text = parameters_of(data)
    read, unwanted, pairs = read_by_webui(text)
    assert (read, unwanted) == (prompt, negative or "")
    assert read_by_browser(text)[:2] == (prompt, negative or "")
    assert pairs == {
        "Steps": "7",
        "Sampler": "Infinity",
        "CFG scale": "3",
        "Seed": "7",
        "Size": "48x32",
        "Model": "emoji",
        "Temperature": "0.5, 0.6",
        "Top P": "0.0",
        "Cache policy": "scalekv",
        "Cache budget": "10%",
        "Cache dtype": "bf16",
        "Version": "scalekv 0.2.0",
    }


# The rules of ComfyUI's page, for a picture that is dropped on it: what is under "workflow", then
# "prompt", is parsed as JSON, of a PNG's chunks, and of a WebP or JPEG from texts of EXIF's first
# directory that begin with such a word and a colon; else "parameters" is split at its last line
# "Steps:" and at the last line "Negative prompt:" before it, without which nothing is read.
@pytest.mark.parametrize("writing", FORMATS, ids=lambda w: w.format)
@pytest.mark.parametrize("prompt", [*PROMPTS, "workflow: a fox", 'prompt:{"a"}'])
def test_comfyui_finds_no_graph_and_the_parameters(writing: Writing, prompt: str) -> None:
    image = opened(writing.file(picture(), prompt, settings_of(prompt), "mark"))
    assert not {"workflow", "prompt", "Workflow", "Prompt"} & image.info.keys()
    assert not [value for value in image.getexif().values() if isinstance(value, str)]
    if writing.format == "png":
        text = image.info["parameters"]
        steps = text.rindex("\nSteps:")
        negative = text.rindex("\nNegative prompt:", 0, steps)
        assert text[:negative].strip() == prompt
        options = re.findall(r'\s*([^:]+:\s*([^"{].*?|".*?"|\{.*?\}))\s*(,|$)', text[steps + 1 :])
        assert {"Steps: 7", "Seed: 7", "CFG scale: 3"} <= {option[0] for option in options}


def test_a_jpeg_has_no_room_for_any_prompt() -> None:
    jpeg, long = Writing("jpg"), "an owl " * 9000
    with pytest.raises(UserError, match="too long for the settings of a JPEG"):
        jpeg.check_room(long, None)
    for other in (USUAL, Writing("webp"), Writing("jpg", metadata=False)):
        other.check_room(long, None)
    for fits in ("an owl " * 3500, "\U0001f989" * 4000):
        jpeg.check_room(fits, None)
        data = jpeg.file(picture(), fits, settings_of(fits))
        assert read_by_webui(parameters_of(data))[0] == fits.strip()


def test_settings_survive_a_tool_that_writes_the_packet_anew() -> None:
    texts = {"settings": json.dumps({"prompt": 'a <b> & "c"'}), "job": "mark"}
    assert texts_of(packet(texts)) == texts
    short = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:s="{NAMESPACE}" s:job="mark"/></rdf:RDF></x:xmpmeta>'
    )
    assert texts_of(short.encode()) == {"job": "mark"}


@pytest.mark.parametrize(
    "data", [b"", b"<", b"no xml", b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>", b"\0\xff"]
)
def test_a_packet_that_is_none_says_nothing(data: bytes) -> None:
    assert texts_of(data) == {}
