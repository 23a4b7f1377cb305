"""Lists of prompts as they are published, and what is none; fetching them from a server here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from scalekv.infinity_patch.benchmarks import sources
from scalekv.infinity_patch.benchmarks.layouts import BENCHMARKS
from scalekv.infinity_patch.benchmarks.prompts import (
    STYLES,
    BenchmarkPrompt,
    Contents,
    dpg_prompts,
    geneval_prompts,
    hps_prompts,
    imagereward_prompts,
    prompts_hash,
    rewritten_prompts,
)
from scalekv.infinity_patch.benchmarks.sources import PromptSource, read_files
from scalekv.infinity_patch.files.transfer import DownloadRefused
from scalekv.kv.errors import UserError
from tests.infinity_patch.benchmarks.made import DPG, GENEVAL, IMAGEREWARD, STYLE_TEXTS

HPS = {f"{style}.json": STYLE_TEXTS.encode() for style in STYLES}


def test_forms() -> None:
    geneval = geneval_prompts({"m.jsonl": GENEVAL.encode()})
    assert [(one.text, one.place) for one in geneval] == [
        ("a photo of an apple", "00000"),
        ("a photo of two owls", "00001"),
    ]
    assert json.loads(geneval[1].metadata)["tag"] == "counting"
    assert dpg_prompts({"d.csv": DPG.encode()}) == [
        BenchmarkPrompt("A red apple, on a table.", "partiprompts1"),
        BenchmarkPrompt("An owl.", "whoops9"),
    ]
    hps = hps_prompts(HPS)
    assert len(hps) == 8
    assert hps[3] == BenchmarkPrompt("a fox", "concept-art/00001")
    assert imagereward_prompts({"b.json": IMAGEREWARD.encode()}) == [
        BenchmarkPrompt("a red apple", "005695-0057")
    ]
    assert prompts_hash(geneval) != prompts_hash(geneval[:1])


def test_rewritten_prompts_keep_what_the_scorer_looks_for() -> None:
    prompts = geneval_prompts({"m.jsonl": GENEVAL.encode()})
    known = {"a photo of an apple": "One shiny apple", "a photo of two owls": "A pair of owls"}
    found = rewritten_prompts(prompts, json.dumps(known).encode(), "r.json")
    assert [one.text for one in found] == list(known.values())
    assert [one.metadata for one in found] == [one.metadata for one in prompts]
    del known["a photo of two owls"]
    with pytest.raises(UserError, match="1 of 2 prompts are not rewritten, 'a photo of two owls'"):
        rewritten_prompts(prompts, json.dumps(known).encode(), "r.json")


@pytest.mark.parametrize(
    ("read", "files", "said"),
    [
        (geneval_prompts, {"m": b"{"}, "not JSON"),
        (geneval_prompts, {"m": b'{"prompt": "a"}\n'}, "no tag"),
        (geneval_prompts, {"m": b'{"prompt": " ", "tag": "x"}\n'}, "no prompt"),
        (geneval_prompts, {"m": b""}, "no prompt in it"),
        (geneval_prompts, {"m": b"\xff\xfe"}, "utf-8"),
        (dpg_prompts, {"d": b"a,b\n1,2\n"}, "no item_id"),
        (dpg_prompts, {"d": b"item_id,text\n../x,b\n"}, "no name of a picture"),
        (hps_prompts, {}, "no anime.json"),
        (hps_prompts, HPS | {"photo.json": b"{}"}, "no list of texts"),
        (imagereward_prompts, {"b": b"{}"}, "no list"),
        (imagereward_prompts, {"b": b'[{"id": 3, "prompt": "a"}]'}, "3 is no name"),
        (imagereward_prompts, {"b": b'[{"id":"a","prompt":"x"},{"id":"a","prompt":"y"}]'}, "two"),
    ],
)
def test_what_is_no_list_is_refused(
    read: Callable[[Contents], object], files: dict[str, bytes], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        read(files)
    assert said in str(caught.value)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What was asked of a server that has one list."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            found = self.path == "/some/repo/abc/lists/m.jsonl"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(GENEVAL.encode() if found else b"")

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(sources, "RAW", f"http://127.0.0.1:{http.server_address[1]}")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield asked
    http.shutdown()
    http.server_close()


def test_a_list_is_fetched_once(
    tmp_path: Path, server: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = PromptSource("some/repo", ("lists/m.jsonl",), "abc")
    first = source.fetched(tmp_path / "prompts")
    assert first == source.fetched(tmp_path / "prompts") == {"m.jsonl": GENEVAL.encode()}
    assert server == ["/some/repo/abc/lists/m.jsonl"]
    with pytest.raises(DownloadRefused, match="404"):
        PromptSource("some/repo", ("other",), "abc").fetched(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadRefused, match="OFFLINE"):
        source.fetched(tmp_path / "elsewhere")
    assert len(server) == 2


def test_lists_that_are_here(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(GENEVAL)
    names = BENCHMARKS["geneval"].source.names
    assert read_files(tmp_path / "own.jsonl", names) == {"own.jsonl": GENEVAL.encode()}
    for name, content in HPS.items():
        (tmp_path / name).write_bytes(content)
    assert read_files(tmp_path, BENCHMARKS["hps"].source.names) == HPS
    with pytest.raises(UserError, match="cannot read the prompts"):
        read_files(tmp_path / "none", names)
