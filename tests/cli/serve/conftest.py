"""A server in this process, with a stand-in for the model behind it."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from scalekv.cli import engine
from scalekv.cli.choices import Options, choose
from scalekv.cli.serve import run as run_module
from scalekv.cli.serve.run import Server
from tests.cli.conftest import StandIn


@dataclass
class Running:
    """A server that answers at `address`."""

    address: str
    server: Any
    thread: threading.Thread

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def end(self) -> None:
        """What SIGTERM does."""
        self.server.end()
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()


Start = Callable[..., Running]


@pytest.fixture
def serve(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts servers; keywords as `Server` has them. They end with the test."""
    running: list[Running] = []
    monkeypatch.setattr(engine, "machine", lambda _: {"processor": "P"})
    monkeypatch.setattr(engine, "free_memory", lambda _: None)

    def start(**settings: Any) -> Running:
        text: list[str] = []
        result: list[Any] = []

        class Seen(run_module._Uvicorn):
            def __init__(self, config: Any) -> None:
                super().__init__(config)
                result.append(self)

            def capture_signals(self) -> Any:
                return threading.Lock()  # signals belong to the main thread

        monkeypatch.setattr(run_module, "_Uvicorn", Seen)
        monkeypatch.setattr(run_module, "say", text.append)
        choices = choose(Options(("a prompt",)))
        server = Server(choices, Console(stderr=True), port=0, **settings)
        thread = threading.Thread(target=server.execute, daemon=True)
        thread.start()
        until = time.monotonic() + 30
        while not (result and result[0].started) and time.monotonic() < until:
            time.sleep(0.01)
        one = Running(text[0].strip(), result[0], thread)
        running.append(one)
        while health(one.address) != 200 and time.monotonic() < until:
            time.sleep(0.01)
        return one

    yield start
    for one in running:
        one.end()


def health(address: str) -> int:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("0123456789abcdef-secret\n", encoding="ascii")
    return path
