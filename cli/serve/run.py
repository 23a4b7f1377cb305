"""One run of `serve`: check, listen, load, answer until told to stop, finish what was taken."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvicorn
from rich.console import Console
from uvicorn.protocols.http.h11_impl import H11Protocol

from scalekv.cli import engine
from scalekv.cli.choices import Choices
from scalekv.cli.console.stdout import say
from scalekv.cli.plan.room import check_room, target_of
from scalekv.cli.serve.app import application
from scalekv.cli.serve.guard import Guard, is_loopback
from scalekv.cli.serve.kept import Kept
from scalekv.cli.serve.metrics import Counted, Metrics
from scalekv.cli.serve.wire import Served
from scalekv.cli.serve.worker import Worker
from scalekv.configs import list_budgets
from scalekv.kv import policy_names
from scalekv.kv.errors import UserError

HEADER_SECONDS = 10.0
"""For the first line and the headers of a request to arrive."""
MOST_HEADER_BYTES = 1 << 14
MOST_CONNECTIONS = 512
IDLE_SECONDS = 5
LEAST_KEY = 16
"""Characters of an API key: fewer can be guessed."""


@dataclass
class Server:
    """What is served, where, and to whom.

    Attributes:
        most_waiting: pictures that may wait.
        key_file: holds the API key; without it only this machine may ask, unless `without_key`.
    """

    choices: Choices
    console: Console
    host: str = "127.0.0.1"
    port: int = 8000
    most_waiting: int = 64
    key_file: Path | None = None
    without_key: bool = False

    def execute(self) -> None:
        """Serves until SIGTERM or Ctrl-C; what was taken by then is finished.

        Raises:
            UserError: refused before the model loads, or by the model's files.
        """
        key = None if self.key_file is None else read_key(self.key_file)
        self._check_reach(key)
        choices = self.choices
        target = target_of(choices.device)
        settled = engine.check(
            choices.request, choices.preset, choices.weights_dir, choices.dtype, target.device
        )
        if not choices.force:
            placement = check_room(settled, target, choices.placement, choices.weights_dir)
            choices = replace(choices, placement=placement)
        metrics = Metrics()
        worker = Worker(choices, metrics, self.most_waiting)
        budgets = frozenset(spec.name for spec in list_budgets(choices.preset.name))
        served = Served(choices, target, budgets, frozenset(policy_names()))
        app = application(served, worker, metrics, Kept())
        guarded = Counted(Guard(app, key=key, hosts=self._hosts()), metrics)
        with self._listening() as listener:
            server = _Uvicorn(_config(guarded))
            worker.start(on_end=server.end)
            host, port = listener.getsockname()[:2]
            say(f"http://{f'[{host}]' if ':' in host else host}:{port}\n")
            server.run(sockets=[listener])
            worker.close(finish=not server.force_exit)
        if worker.failure is not None:
            raise worker.failure

    def _hosts(self) -> frozenset[str] | None:
        """Names this server answers to; None: any, where it is to be reached from elsewhere."""
        if not is_loopback(self.host):
            return None
        return frozenset({"localhost", "127.0.0.1", "::1", self.host.lower()})

    def _check_reach(self, key: str | None) -> None:
        if key is None and not self.without_key and not is_loopback(self.host):
            raise UserError(
                f"everybody who reaches {self.host} could draw here",
                where="--host",
                rule="another address than this machine's own needs an API key",
                fix="--api-key-file FILE, or --without-key if that is what you want",
            )

    @contextmanager
    def _listening(self) -> Iterator[socket.socket]:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listener = socket.create_server((self.host, self.port), family=family, backlog=512)
        except OSError as error:
            raise UserError(
                f"cannot listen on {self.host}, port {self.port}: {error.strerror}",
                where="--host and --port",
                rule="an address of this machine, and a port that nobody else uses",
                fix="--port 0 takes a free one",
            ) from None
        with listener:
            yield listener


def read_key(path: Path) -> str:
    """The API key in a file: its one line.

    Raises:
        UserError: it cannot be read, or holds no such line.
    """
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the API key in {path}: {error}",
            where="--api-key-file",
            rule="a file with one line of ASCII",
        ) from None
    if len(key) < LEAST_KEY or len(key.split()) != 1:
        raise UserError(
            f"there is no API key in {path}",
            where="--api-key-file",
            rule=f"one line of at least {LEAST_KEY} characters without blanks",
            fix="python -c 'import secrets; print(secrets.token_urlsafe(32))' > FILE",
        )
    return key


def _config(app: Counted) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Impatient,
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
    )


class _Impatient(H11Protocol):
    """HTTP that closes connections on which no whole request arrives for long."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._late = asyncio.get_running_loop().call_later(HEADER_SECONDS, self._close_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        self._late.cancel()
        super().connection_lost(exc)

    def _close_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class _Uvicorn(uvicorn.Server):
    """A server that SIGTERM and Ctrl-C end in order; a second signal ends it at once."""

    def end(self) -> None:
        """Ends it in order; may be called from any thread."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)}
        try:
            for kind in before:
                signal.signal(kind, self._on_signal)
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _on_signal(self, *_: object) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
