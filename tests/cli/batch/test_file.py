"""Files of prompts as people have them, whole and broken."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scalekv.cli.batch import file as batch_file
from scalekv.cli.batch.file import prompts_alone, read_prompts
from scalekv.kv.errors import UserError
from tests.cli.conftest import Outcome, StandIn

Program = Callable[..., Outcome]


def rows(text: str | bytes, name: str) -> list[tuple[int, dict[str, object]]]:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    file = read_prompts(name)
    assert not file.problems
    return [(row.line, row.values) for row in file.rows]


def test_text() -> None:
    text = "# animals\nan owl\r\n\n  a fox  \n\\#1 on a shirt\na café\u2028at night\n#end"
    assert rows(text, "p.txt") == [
        (2, {"prompt": "an owl"}),
        (4, {"prompt": "a fox"}),
        (5, {"prompt": "#1 on a shirt"}),
        (6, {"prompt": "a café\u2028at night"}),
    ]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "utf-8-sig"])
def test_csv(mark: bytes) -> None:
    text = mark + b'prompt, seed,name\n"an owl, at night",7,\n\n"two\nlines",,fox\n"a ""b""",1,c\n'
    assert rows(text, "p.csv") == [
        (2, {"prompt": "an owl, at night", "seed": "7"}),
        (4, {"prompt": "two\nlines", "name": "fox"}),
        (6, {"prompt": 'a "b"', "seed": "1", "name": "c"}),
    ]


def test_json_lines() -> None:
    text = '{"prompt": "an owl", "seed": 7, "cfg": [1, 2.5], "name": null}\n\n{"prompt": "x"}'
    assert rows(text, "p.JSONL") == [
        (1, {"prompt": "an owl", "seed": 7, "cfg": [1, 2.5]}),
        (3, {"prompt": "x"}),
    ]


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"prompt": "x"}\n')))
    file = read_prompts("-", "jsonl")
    assert (file.name, file.rows[0].values) == ("stdin", {"prompt": "x"})


def test_a_file_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_file, "MOST_BYTES", 2**20)
    with pytest.raises(UserError, match="too large"):
        read_prompts("/dev/zero", "txt")


HEADED = "prompt,seed,ratio,cfg,budget,name\n"

MALFORMED: dict[str, tuple[str, str | bytes, list[str]]] = {
    "latin-1": ("p.txt", "an owl\na café\n".encode("latin-1"), ["line 2", "0xe9", "iconv"]),
    "utf-16": ("p.txt", "an owl\n".encode("utf-16"), ["UTF-16", "iconv"]),
    "a NUL byte": ("p.txt", b"an owl\na\0b\n", ["line 2", "NUL"]),
    "empty": ("p.txt", b"", ["no prompt in it"]),
    "comments alone": ("p.txt", "# nothing\n\n", ["no prompt in it"]),
    "a header alone": ("p.csv", HEADED, ["no prompt in it"]),
    "an unknown suffix": ("p.docx", "x", [".docx", "--file-format txt"]),
    "an unknown column": ("p.csv", "prompt,sed\nx,1\n", ["line 1", "'sed'", "did you mean seed"]),
    "no column prompt": ("p.csv", "seed,name\n1,x\n", ["line 1", "no column prompt"]),
    "a column twice": ("p.csv", "prompt,seed,seed\nx,1,2\n", ["line 1", "seed is there twice"]),
    "too many cells": ("p.csv", "prompt,seed\nan owl, a fox,1\n", ["line 2", "3 cells", "quotes"]),
    "too few cells": ("p.csv", "prompt,seed\nan owl\n", ["line 2", "1 cells"]),
    "an open quote": ("p.csv", 'prompt\nx\n"an owl\na\n', ["line 3", "not closed"]),
    "text after a quote": ("p.csv", 'prompt\n"an owl" x\n', ["line 2", "no CSV"]),
    "an empty cell": ("p.csv", "prompt,seed\n,1\n", ["line 2", "prompt is missing"]),
    "a word as seed": ("p.csv", "prompt,seed\nx,seven\n", ["line 2", "'seven'", "whole number"]),
    "a negative seed": ("p.csv", "prompt,seed\nx,-1\n", ["line 2", "'-1'", "from 0"]),
    "a huge seed": ("p.csv", f"prompt,seed\nx,{2**63}\n", ["line 2", "from 0 to"]),
    "a seed of many digits": ("p.jsonl", '{"prompt":"x","seed":' + "9" * 5000 + "}", ["line 1"]),
    "half a picture": ("p.jsonl", '{"prompt": "x", "num_images": 0.5}', ["num_images", "at least"]),
    "an unknown ratio": ("p.csv", "prompt,ratio\nx,7:9\n", ["line 2", "7:9", "width:height"]),
    "another model's ratio": ("p.csv", "prompt,ratio\nx,3:2\n", ["line 2", "emoji", "3:2"]),
    "a wrong cfg list": ("p.jsonl", '{"prompt": "x", "cfg": [1, 2]}', ["line 1", "2 values for 7"]),
    "a cfg of words": ("p.jsonl", '{"prompt": "x", "cfg": [1, "b"]}', ["line 1", "cfg", "scale"]),
    "a cold tau": ("p.jsonl", '{"prompt": "x", "tau": 0}', ["line 1", "tau", "at least"]),
    "a true top_p": ("p.jsonl", '{"prompt": "x", "top_p": true}', ["line 1", "top_p", "a number"]),
    "no such policy": ("p.jsonl", '{"prompt": "x", "policy": "lru"}', ["line 1", "lru"]),
    "no such budget": ("p.csv", "prompt,budget\nx,paper-99\n", ["line 2", "paper-99"]),
    "another model's budget": ("p.csv", "prompt,budget\nx,infinity-2b/paper-10\n", ["infinity-2b"]),
    "a budget for full": (
        "p.jsonl",
        '{"prompt": "x", "policy": "full", "budget": "10%"}',
        ["line 1", "drops nothing"],
    ),
    "no JSON": ("p.jsonl", '{"prompt": "x"}\n{"prompt": "y"\n', ["line 2", "no JSON", "column"]),
    "a JSON list": ("p.jsonl", '["an owl"]\n', ["line 1", "no object"]),
    "deep JSON": ("p.jsonl", "[" * 100_000, ["line 1", "no JSON"]),
    "a JSON key twice": ("p.jsonl", '{"prompt": "x", "prompt": "y"}', ["line 1", "twice"]),
    "not a number": ("p.jsonl", '{"prompt": "x", "cfg": NaN}', ["line 1", "NaN"]),
    "an unknown key": ("p.jsonl", '{"prompt": "x", "promt": "y"}', ["line 1", "'promt'"]),
    "a number as prompt": ("p.jsonl", '{"prompt": 5}', ["line 1", "prompt is 5", "text"]),
    "half a surrogate": ("p.jsonl", '{"prompt": "x\\ud800"}', ["line 1", "Unicode"]),
    "a control character": ("p.txt", "x\nan \x1b[31mowl\n", ["line 2", "control", "\\x1b"]),
    "a million characters": (
        "p.txt",
        "apple " * 170_000,
        ["line 1", "170000 tokens", "--truncate"],
    ),
    "a duplicate name": ("p.csv", "prompt,name\nx,owl\ny,OWL.png\n", ["line 3", "line 2 too"]),
    "a parent folder": ("p.csv", "prompt,name\nx,../owl\n", ["line 2", "no folders"]),
    "an absolute name": ("p.csv", "prompt,name\nx,/tmp/owl\n", ["line 2", "no folders"]),
    "a Windows path": ("p.csv", "prompt,name\nx,..\\owl\n", ["line 2", "no folders"]),
    "a hidden name": ("p.csv", "prompt,name\nx,.owl\n", ["line 2", "dot"]),
    "reserved characters": ("p.csv", "prompt,name\nx,owl:1?\n", ["line 2", "none of"]),
    "a name of ours": ("p.csv", "prompt,name\nx,manifest\n", ["line 2", "scalekv writes"]),
    "a device's name": ("p.csv", "prompt,name\nx,NUL\n", ["line 2", "device"]),
    "a name too long": ("p.csv", f"prompt,name\nx,{'é' * 120}\n", ["line 2", "200 bytes"]),
    "a name with a bell": ("p.jsonl", '{"prompt": "x", "name": "a\\u0007"}', ["line 1", "control"]),
}


def test_prompts_alone() -> None:
    Path("list").write_text("# no suffix\nan owl\n")
    Path("p.csv").write_text('prompt\n"an owl, at night"\n')
    Path("p.jsonl").write_text('{"prompt": "an owl"}\n{"prompt": "a fox"}\n')
    assert prompts_alone(Path("list")) == ("an owl",)
    assert prompts_alone(Path("p.csv")) == ("an owl, at night",)
    assert prompts_alone(Path("p.jsonl")) == ("an owl", "a fox")
    Path("p.jsonl").write_text('{"prompt": "an owl", "seed": 1}\n{"seed": 2}\n')
    with pytest.raises(UserError, match="2 problems") as refused:
        prompts_alone(Path("p.jsonl"))
    assert "line 1: it says seed" in str(refused.value)
    Path("p.jsonl").write_text('{"prompt": 7}\n')
    with pytest.raises(UserError, match="there is no prompt"):
        prompts_alone(Path("p.jsonl"))


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file(scalekv: Program, stand_in: StandIn, case: str) -> None:
    name, content, words = MALFORMED[case]
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    done = scalekv("batch", name)
    assert (done.code, done.out) == (2, "")
    assert stand_in.loaded == []
    assert sorted(os.listdir()) == [name]
    assert name in done.err
    for word in words:
        assert word in done.err
    assert "Traceback" not in done.err
    assert "\x1b" not in done.err
    assert len(done.err) < 2000


def test_a_row_that_leaves_the_folder_writes_nowhere(scalekv: Program, stand_in: StandIn) -> None:
    Path("p.jsonl").write_text(json.dumps({"prompt": "x", "name": "../../escaped"}))
    assert scalekv("batch", "p.jsonl", "--out", "a/b").code == 2
    assert sorted(os.listdir()) == ["p.jsonl"]
    assert not list(Path("..").glob("escaped*"))


def test_every_bad_row_is_reported(scalekv: Program, stand_in: StandIn) -> None:
    Path("p.csv").write_text(
        HEADED + "ok,1,1:1,2,10%,a\n,2,,,,\nx,-5,,,,\nx,many,7:9,,,../b\nx,,,,150%,\n"
        "x,,,,,a\nx,,,nan,,\n" + "word " * 600 + ",,,,,\n"
    )
    done = scalekv("batch", "p.csv")
    assert done.code == 2
    assert "9 problems in p.csv" in done.err
    lines = [line.strip().split(":")[0] for line in done.err.splitlines()[1:10]]
    assert lines == [f"line {n}" for n in (3, 4, 5, 5, 5, 6, 7, 8, 9)]
    facts = scalekv("batch", "p.csv", "--json")
    assert json.loads(facts.err.splitlines()[-1])["error"]["code"] == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: None, ["p.txt", "No such file", "check the path"]),
        (lambda: Path("p.txt").mkdir(), ["p.txt", "Is a directory"]),
    ],
)
def test_no_file(
    scalekv: Program, stand_in: StandIn, make: Callable[[], None], words: list[str]
) -> None:
    make()
    done = scalekv("batch", "p.txt")
    assert done.code == 2
    for word in words:
        assert word in done.err


def test_an_unreadable_file(
    scalekv: Program, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    Path("p.txt").write_text("x")
    monkeypatch.setattr(batch_file, "open", refuse, raising=False)
    done = scalekv("batch", "p.txt")
    assert done.code == 2
    assert "Permission denied" in done.err


def test_a_million_characters_can_be_cut(scalekv: Program, stand_in: StandIn) -> None:
    Path("p.csv").write_text('prompt\n"' + "apple " * 170_000 + '"\n')
    done = scalekv("batch", "p.csv", "--truncate")
    assert done.code == 0, done.err
    assert done.out == "out/00000-0-apple-apple-apple-apple-apple-apple.png\n"
