"""Pictures that are fetched by address: each under a random token, in memory, for some minutes.
Knows bytes; nothing of HTTP."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

SECONDS = 600.0
MOST_BYTES = 1 << 28
"""Of all pictures together; beyond it the oldest go first."""


class Kept:
    """Pictures by token. May be used from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pictures: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def keep(self, png: bytes) -> str:
        """Keeps a picture; returns the token it is found by."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._pictures[token] = (self._clock() + SECONDS, png)
            self._bytes += len(png)
            self._forget()
        return token

    def find(self, token: str) -> bytes | None:
        """The picture, or None: there is none, or not any more."""
        with self._lock:
            self._forget()
            found = self._pictures.get(token)
        return None if found is None else found[1]

    def _forget(self) -> None:
        now = self._clock()
        while self._pictures:
            token, (until, png) = next(iter(self._pictures.items()))
            newest_alone = len(self._pictures) == 1
            if until > now and (self._bytes <= MOST_BYTES or newest_alone):
                return
            del self._pictures[token]
            self._bytes -= len(png)
