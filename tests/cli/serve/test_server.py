"""A running server against the clients it is for, and against those it is not for."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from scalekv.cli.pictures.folder import png_bytes
from scalekv.cli.pictures.settings import read_picture
from scalekv.cli.serve import guard, run
from tests.cli.conftest import StandIn
from tests.cli.serve.conftest import Start

GENERATIONS = "/v1/images/generations"


@pytest.fixture
def client() -> Iterator[Callable[..., openai.OpenAI]]:
    """Makes the official client of a server."""
    with ExitStack() as stack:

        def make(address: str, key: str = "any", retries: int = 0) -> openai.OpenAI:
            return stack.enter_context(
                openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=retries)
            )

        yield make


Client = Callable[..., openai.OpenAI]


def status_of(url: str) -> int:
    """The status of a GET that is refused."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url, timeout=10)
    with caught.value as error:
        return error.code


def send(address: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """Status and body of a POST for pictures."""
    given = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(address + GENERATIONS, body, given)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_official_client_gets_pictures(serve: Start, tmp_path: Path, client: Client) -> None:
    one = client(serve().address)
    assert [model.id for model in one.models.list()] == ["emoji"]
    answer = one.images.generate(
        model="emoji",
        prompt="a red apple",
        n=2,
        size="128x128",
        response_format="b64_json",
        extra_body={"seed": 7, "budget": "20%", "policy": "snapkv", "cfg": 3, "negative": "grey"},
    )
    assert answer.data is not None
    assert len(answer.data) == 2
    for seed, item in zip((7, 8), answer.data, strict=True):
        path = tmp_path / f"{seed}.png"
        path.write_bytes(base64.b64decode(item.b64_json or ""))
        assert read_picture(path).settings["seed"] == seed
        ours = (item.model_extra or {})["scalekv"]
        assert (ours["seed"], ours["report"]["cache"]["policy"]) == (seed, "snapkv")


def test_a_url_is_random_and_gives_the_picture(serve: Start, client: Client) -> None:
    answer = client(serve().address).images.generate(prompt="a fox", response_format="url")
    assert answer.data is not None
    url = answer.data[0].url or ""
    assert len(url.rpartition("/")[2]) > 40
    with urllib.request.urlopen(url, timeout=10) as found:
        assert Image.open(io.BytesIO(found.read())).size == (8, 8)
    assert status_of(url.replace(".png", "x.png")) == 404


def test_errors_are_the_clients_own(serve: Start, client: Client) -> None:
    one = client(serve().address)
    with pytest.raises(openai.NotFoundError, match="draws with emoji"):
        one.images.generate(prompt="a fox", model="dall-e-3")
    with pytest.raises(openai.BadRequestError, match="less than or equal to 10") as caught:
        one.images.generate(prompt="a fox", n=11)
    assert (caught.value.param, caught.value.type) == ("n", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="did you mean budget"):
        one.images.generate(prompt="a fox", extra_body={"budgte": "10%"})


MALFORMED: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"[]", 400),
    (b"null", 400),
    (b"\xff\xfe", 400),
    (b"[" * 100_000, 400),
    (b'{"prompt": NaN}', 400),
    (b'{"prompt": "x", "cfg": NaN}', 400),
    (b'{"prompt": "x", "cfg": Infinity}', 400),
    (b'{"prompt": "x", "cfg": 1e999}', 400),
    (b'{"prompt": "x", "cfg": [1, 2]}', 400),
    (b'{"prompt": "x", "tau": []}', 400),
    (b'{"prompt": "x", "tau": 0}', 400),
    (b'{"prompt": "x", "top_p": 7}', 400),
    (b'{"prompt": "x", "top_p": "0.9"}', 400),
    (b'{"prompt": ""}', 400),
    (b'{"prompt": 7}', 400),
    (b'{"prompt": ["x"]}', 400),
    (b'{"prompt": null}', 400),
    (b"{}", 400),
    (b'{"prompt": "\\ud800"}', 400),
    (b'{"prompt": "x", "n": 0}', 400),
    (b'{"prompt": "x", "n": -1}', 400),
    (b'{"prompt": "x", "n": 1000000}', 400),
    (b'{"prompt": "x", "n": 1.5}', 400),
    (b'{"prompt": "x", "n": "2"}', 400),
    (b'{"prompt": "x", "n": true}', 400),
    (b'{"prompt": "x", "size": "99999999x99999999"}', 400),
    (b'{"prompt": "x", "size": "0x0"}', 400),
    (b'{"prompt": "x", "size": "big"}', 400),
    (b'{"prompt": "x", "size": 128}', 400),
    (b'{"prompt": "x", "seed": -1}', 400),
    (b'{"prompt": "x", "seed": 1e3}', 400),
    (b'{"prompt": "x", "seed": 99999999999999999999999}', 400),
    (b'{"prompt": "x", "budget": "/etc/passwd"}', 400),
    (b'{"prompt": "x", "budget": "../../x.yaml"}', 400),
    (b'{"prompt": "x", "budget": "/dev/zero"}', 400),
    (b'{"prompt": "x", "budget": "200%"}', 400),
    (b'{"prompt": "x", "budget": 0}', 400),
    (b'{"prompt": "x", "budget": {}}', 400),
    (b'{"prompt": "x", "policy": "heatkv:/etc/passwd"}', 400),
    (b'{"prompt": "x", "policy": "nothing"}', 400),
    (b'{"prompt": "x", "kv_dtype": "int3"}', 400),
    (b'{"prompt": "x", "response_format": "file"}', 400),
    (b'{"prompt": "x", "stream": true}', 400),
    (b'{"prompt": "x", "__proto__": 1}', 400),
    (b'{"prompt": "x", "negative": ""}', 400),
    (b'{"prompt": "' + b"x" * 40_000 + b'"}', 400),
    (b'{"prompt": "' + b"x" * 10_000_000 + b'"}', 413),
    (b'{"prompt": "x", "user": "' + b"u" * 600 + b'"}', 400),
]


def test_two_hundred_malformed_requests_leave_it_alive(serve: Start, stand_in: StandIn) -> None:
    address = serve().address
    for _ in range(4):
        for body, status in MALFORMED:
            got, answer = send(address, body)
            assert got == status, (body[:80], answer)
            assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert send(address, b'{"prompt": "x"}', **{"Content-Type": "text/plain"})[0] == 415
    assert send(address, b'{"prompt": "x"}', Host="evil.example")[0] == 421
    assert stand_in.requests == []
    assert send(address, b'{"prompt": "x"}')[0] == 200


def raw(port: int, data: bytes, seconds: float = 20.0) -> bytes:
    """What comes back when these bytes, and no more, are sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(data)
        received = b""
        while part := connection.recv(4096):
            received += part
        return received


def test_slow_senders_are_let_go(serve: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(
        guard.Guard.__init__,
        "__kwdefaults__",
        {
            "key": None,
            "hosts": None,
            "body_seconds": 0.3,
        },
    )
    port = serve().port
    assert raw(port, b"POST /v1/images/gener") == b""
    head = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n"
    slow = raw(port, head + b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{")
    assert slow.startswith(b"HTTP/1.1 408")
    huge = raw(port, head + b"X: " + b"x" * 100_000 + b"\r\n")
    assert huge.startswith(b"HTTP/1.1 400")


def test_a_full_queue_says_when_to_come_again(
    serve: Start, stand_in: StandIn, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    draw = stand_in._picture

    def held(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return draw(*arguments)

    monkeypatch.setattr(stand_in, "_picture", held)
    address = serve(most_waiting=2).address
    with ThreadPoolExecutor() as pool:
        first = pool.submit(send, address, b'{"prompt": "x"}')
        assert begun.wait(30)
        second = pool.submit(send, address, b'{"prompt": "x", "n": 2}')
        until = time.monotonic() + 30
        while b"scalekv_queue_pictures 2.0" not in metrics(address) and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(openai.RateLimitError) as caught:
            client(address).images.generate(prompt="x")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        go_on.set()
        assert (first.result()[0], second.result()[0]) == (200, 200)


def metrics(address: str) -> bytes:
    with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
        return bytes(answer.read())


def test_fifty_clients_at_once(serve: Start, client: Client) -> None:
    running = serve(most_waiting=64)

    def ask(number: int) -> int:
        answer = client(running.address, retries=2).images.generate(
            prompt=f"a fox {number}", extra_body={"seed": number}
        )
        assert answer.data is not None
        return int((answer.data[0].model_extra or {})["scalekv"]["seed"])

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(ask, range(50))) == list(range(50))
    assert b"scalekv_pictures_total 50.0" in metrics(running.address)


def test_a_file_is_made_beside_the_next_picture(
    serve: Start, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = stand_in._picture
    begun: list[Any] = []
    next_one = threading.Event()

    def drawn(*arguments: Any) -> Any:
        begun.append(arguments)
        if len(begun) == 2:
            next_one.set()
        return draw(*arguments)

    def made(*arguments: Any) -> bytes:
        assert next_one.wait(30)
        return png_bytes(*arguments)

    monkeypatch.setattr(stand_in, "_picture", drawn)
    monkeypatch.setattr("scalekv.cli.serve.worker.png_bytes", made)
    address = serve().address
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(send, address, b'{"prompt": "x"}') for _ in range(2)]
        assert [answer.result()[0] for answer in answers] == [200, 200]


def test_nothing_is_drawn_for_who_has_gone(
    serve: Start, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    draw = stand_in._picture

    def held(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return draw(*arguments)

    monkeypatch.setattr(stand_in, "_picture", held)
    running = serve()
    with ThreadPoolExecutor() as pool:
        staying = pool.submit(send, running.address, b'{"prompt": "x"}')
        assert begun.wait(30)
        body = b'{"prompt": "gone", "n": 5}'
        leaving = socket.create_connection(("127.0.0.1", running.port))
        head = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        leaving.sendall(head.format(GENERATIONS).encode())
        leaving.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        until = time.monotonic() + 30
        while b"queue_pictures 5.0" not in metrics(running.address) and time.monotonic() < until:
            time.sleep(0.01)
        leaving.close()
        while b"queue_pictures 0.0" not in metrics(running.address) and time.monotonic() < until:
            time.sleep(0.01)
        go_on.set()
        assert staying.result()[0] == 200
    assert all(request.prompts == ("x",) for request in stand_in.requests)
    assert b"scalekv_pictures_dropped_total 5.0" in metrics(running.address)


def test_out_of_memory_is_said_and_survived(
    serve: Start, stand_in: StandIn, client: Client
) -> None:
    address = serve().address
    stand_in.error, stand_in.failing = MemoryError("no more"), ("large",)
    with pytest.raises(openai.InternalServerError) as caught:
        client(address).images.generate(prompt="large")
    assert (caught.value.status_code, caught.value.code) == (503, "out_of_memory")
    assert send(address, b'{"prompt": "small"}')[0] == 200


def test_a_key_is_needed_where_there_is_one(serve: Start, key_file: Path, client: Client) -> None:
    address = serve(key_file=key_file).address
    with pytest.raises(openai.AuthenticationError):
        client(address).images.generate(prompt="x")
    assert status_of(f"{address}/metrics") == 401
    one = client(address, key_file.read_text(encoding="ascii").strip())
    assert one.images.generate(prompt="x").data


def test_what_was_taken_is_finished_at_the_end(
    serve: Start, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serve()
    draw = stand_in._picture

    def slow(*arguments: Any) -> Any:
        time.sleep(0.1)
        return draw(*arguments)

    monkeypatch.setattr(stand_in, "_picture", slow)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(send, running.address, b'{"prompt": "x"}') for _ in range(8)]
        until = time.monotonic() + 30
        while b"queue_pictures 7.0" not in metrics(running.address) and time.monotonic() < until:
            time.sleep(0.005)
        running.end()
        assert [answer.result()[0] for answer in answers] == [200] * 8
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", running.port))
