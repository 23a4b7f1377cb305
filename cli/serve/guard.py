"""What stands before the application: who may ask, and how much may be sent how slowly.

ASGI alone; knows nothing of pictures.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from scalekv.cli.serve.wire import Rejected

MOST_BODY_BYTES = 1 << 20
MOST_DRAINED_BYTES = 1 << 26
BODY_SECONDS = 10.0
"""For a whole body to arrive."""
OPEN = ("/", "/health")
"""What is answered without a key."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Refuses strangers and what is too large or too slow; hands the rest on, bodies whole.

    Args:
        key: what a client must send as `Authorization: Bearer KEY`; None: no key.
        hosts: names a request may use for this server, so that a page elsewhere cannot reach it
            by a name of its own; None: any.
    """

    def __init__(
        self,
        app: Application,
        *,
        key: str | None = None,
        hosts: frozenset[str] | None = None,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self._app = app
        self._key = None if key is None else key.encode()
        self._hosts = hosts
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            self._check_host(headers.get(b"host", b"").decode("latin-1"))
            self._check_key(scope["path"], headers.get(b"authorization", b""))
            body = await self._body(scope["method"], headers, receive)
        except Rejected as rejected:
            await _answer(rejected, send)
            return
        await self._app(scope, _handing_on(body, receive), send)

    def _check_host(self, host: str) -> None:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self._hosts is not None and name.strip("[]").lower() not in self._hosts:
            raise Rejected(421, "this server does not answer to that name", code="wrong_host")

    def _check_key(self, path: str, given: bytes) -> None:
        if self._key is None or path in OPEN:
            return
        scheme, _, key = given.partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(key.strip(), self._key):
            raise Rejected(401, "no API key, or not the one of this server", code="invalid_api_key")

    async def _body(
        self, method: str, headers: MutableMapping[bytes, bytes], receive: Receive
    ) -> bytes:
        if method in ("GET", "HEAD"):
            return b""
        kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip()
        if method == "POST" and kind.lower() != "application/json":
            raise Rejected(415, "the body must be application/json", code="unsupported_media_type")
        try:
            return await asyncio.wait_for(_whole(receive), self._body_seconds)
        except TimeoutError:
            raise Rejected(408, "the body came too slowly", code="request_timeout") from None


async def _whole(receive: Receive) -> bytes:
    """The body. One that is too large is read on for a while, unkept: a client that still sends
    would never see the answer."""
    body = bytearray()
    received, more = 0, True
    while more and received <= MOST_DRAINED_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Rejected(400, "the client has gone", code="incomplete_body")
        part = message.get("body", b"")
        received += len(part)
        if received <= MOST_BODY_BYTES:
            body += part
        more = message.get("more_body", False)
    if received > MOST_BODY_BYTES:
        raise Rejected(413, f"a body is at most {MOST_BODY_BYTES} bytes", code="request_too_large")
    return bytes(body)


def _handing_on(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a whole body first, then what comes: that the client has gone."""
    given = False

    async def hand_on() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return hand_on


async def _answer(rejected: Rejected, send: Send) -> None:
    body = json.dumps(rejected.body).encode()
    headers = {"content-type": "application/json", "connection": "close", **rejected.headers}
    if rejected.status == 401:
        headers["www-authenticate"] = "Bearer"
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": rejected.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
