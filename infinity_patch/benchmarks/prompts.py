"""The benchmarks' lists of prompts, as they publish them. Knows their forms; nothing of where they
are fetched from, or of pictures. No torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from scalekv.kv.errors import UserError

STYLES = ("anime", "concept-art", "paintings", "photo")
"""Of HPSv2's prompts, a file each."""


@dataclass(frozen=True)
class BenchmarkPrompt:
    """One prompt of a benchmark.

    text: what is drawn; place: what its pictures are called after; metadata: a JSON line that the
    scorer wants beside them, "" where it wants none.
    """

    text: str
    place: str
    metadata: str = ""


Contents = Mapping[str, bytes]
"""The files of a list by name."""


def geneval_prompts(files: Contents) -> list[BenchmarkPrompt]:
    """GenEval's evaluation_metadata.jsonl: an object a line, with `prompt`, `tag` and what is to be
    seen.

    Raises:
        UserError: another form.
    """
    ((name, content),) = files.items()
    found = []
    for number, line in enumerate(_text(content, name).splitlines()):
        row = _json(line, f"{name}, line {number + 1}")
        if not (isinstance(row, dict) and isinstance(row.get("tag"), str)):
            raise _no_list(name, f"line {number + 1} has no tag", "GenEval's metadata")
        text = _prompt(row, f"{name}, line {number + 1}")
        found.append(BenchmarkPrompt(text, f"{number:05d}", json.dumps(row)))
    return _some(found, name)


def rewritten_prompts(
    prompts: list[BenchmarkPrompt], content: bytes, name: str
) -> list[BenchmarkPrompt]:
    """The same with each text as a language model wrote it anew: an object from one to the other,
    as Infinity's prompt_rewrite_cache.json.

    Raises:
        UserError: another form, or a prompt that is not in it.
    """
    try:
        known = _json(_text(content, name), name)
        if not (isinstance(known, dict) and all(isinstance(text, str) for text in known.values())):
            raise _no_list(name, "no object from prompt to prompt", "rewritten prompts")
    except UserError as error:
        error.fix = "name the file as it was published: --rewritten FILE"
        raise
    lacking = [prompt.text for prompt in prompts if not known.get(prompt.text)]
    if lacking:
        raise UserError(
            f"{len(lacking)} of {len(prompts)} prompts are not rewritten, {lacking[0]!r} first",
            where=name,
            rule="every prompt is drawn as it was written anew",
            fix="name a file that has them all: --rewritten FILE",
        )
    return [BenchmarkPrompt(known[one.text], one.place, one.metadata) for one in prompts]


def dpg_prompts(files: Contents) -> list[BenchmarkPrompt]:
    """DPG-Bench's dpg_bench.csv: a row a question, of which the first of every item has its text.

    Raises:
        UserError: another form.
    """
    ((name, content),) = files.items()
    texts: dict[str, str] = {}
    for row in csv.DictReader(io.StringIO(_text(content, name))):
        item, text = row.get("item_id"), row.get("text")
        if not item or not text:
            raise _no_list(name, "a row has no item_id and text", "DPG-Bench's questions")
        texts.setdefault(item, text.strip())
    return _some([BenchmarkPrompt(text, _plain(item, name)) for item, text in texts.items()], name)


def hps_prompts(files: Contents) -> list[BenchmarkPrompt]:
    """HPSv2's prompts: a list of texts for each of the `STYLES`, in STYLE.json.

    Raises:
        UserError: another form, or a style that is not there.
    """
    found = []
    for style in STYLES:
        name = f"{style}.json"
        if name not in files:
            raise UserError(
                f"there is no {name}",
                where="HPSv2's prompts",
                rule="a file for each style: " + ", ".join(f"{one}.json" for one in STYLES),
            )
        texts = _json(_text(files[name], name), name)
        if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
            raise _no_list(name, "no list of texts", "HPSv2's prompts")
        found += [
            BenchmarkPrompt(text, f"{style}/{number:05d}") for number, text in enumerate(texts)
        ]
    return _some(found, "HPSv2's prompts")


def imagereward_prompts(files: Contents) -> list[BenchmarkPrompt]:
    """ImageReward's benchmark-prompts.json: a list of objects with `id` and `prompt`.

    Raises:
        UserError: another form.
    """
    ((name, content),) = files.items()
    rows = _json(_text(content, name), name)
    if not isinstance(rows, list):
        raise _no_list(name, "no list", "ImageReward's prompts")
    return _some(
        [BenchmarkPrompt(_prompt(row, name), _plain(row.get("id"), name)) for row in rows], name
    )


def prompts_hash(prompts: Sequence[BenchmarkPrompt]) -> str:
    """SHA-256 of what is drawn and what it is called, which tells one list from another."""
    parts = [[one.text, one.place, one.metadata] for one in prompts]
    return sha256(json.dumps(parts).encode()).hexdigest()


def _prompt(row: Any, where: str) -> str:
    text = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise _no_list(where, "no prompt", "a list of prompts")
    return text


def _plain(name: Any, where: str) -> str:
    """A name that a file can have."""
    if not isinstance(name, str) or not name or name.startswith(".") or set(name) & set('/\\:"'):
        raise _no_list(where, f"{name!r} is no name of a picture", "a list of prompts")
    return name


def _some(prompts: list[BenchmarkPrompt], where: str) -> list[BenchmarkPrompt]:
    if not prompts:
        raise UserError("there is no prompt in it", where=where)
    if len({one.place for one in prompts}) < len(prompts):
        raise UserError("two prompts have one name", where=where)
    return prompts


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _no_list(name, str(error), "text in UTF-8") from error


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_list(where, f"not JSON: {error}", "JSON") from error


def _no_list(where: str, what: str, rule: str) -> UserError:
    return UserError(
        f"not the list of prompts: {what}",
        where=where,
        rule=f"{rule}, as published",
        fix="name the file as it was published: --prompts FILE",
    )
