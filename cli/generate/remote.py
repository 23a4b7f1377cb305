"""Pictures from a running `scalekv serve`: the same files, sidecars and report as alone.

Knows the server's addresses and answers; nothing of models.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from PIL import Image
from rich.console import Console

from scalekv.cli.choices import Choices, Options, choose
from scalekv.cli.console.errors import Unsuccessful
from scalekv.cli.generate.run import Run
from scalekv.configs.option import KEY_VARIABLE
from scalekv.configs.settings import option_name
from scalekv.infinity_patch.asked.settled import settle
from scalekv.infinity_patch.schedules import size_of
from scalekv.kv.errors import UserError

if TYPE_CHECKING:
    from scalekv.cli.console.progress import Display
    from scalekv.infinity_patch.asked.settled import Settled

TOGETHER = 8
"""Requests under way at once: what waits is drawn together where the server's device can."""
TIMEOUT_SECONDS = 3600.0
"""For one picture, those before it in the queue included."""
MOST_WAITS = 120
"""Times a full queue is asked again."""


ON_THE_SERVER = (
    "kv_device",
    "reproducible",
    "batch_size",
    "weights_dir",
    "device",
    "dtype",
    "weights",
    "threads",
    "graphs",
    "offload",
    "text_device",
    "text_dtype",
    "keep_text_encoder",
    "text_cache",
    "force",
    "record",
)
"""Options that say how a model is loaded, run and watched: a server has its own."""


@dataclass(frozen=True)
class RemotePicture:
    """A picture a server drew; attributes as `scalekv.infinity_patch.Picture` has them.

    figures: the server's memory report with this picture's ledger.
    """

    image: Image.Image
    prompt: str
    seed: int
    index: int
    settings: dict[str, Any]
    cache: dict[str, Any]
    truncated: str | None
    seconds: float
    figures: dict[str, Any]
    together: int = 1


class Remote:
    """A server that is asked for pictures.

    Args:
        address: "http://127.0.0.1:8000".

    Raises:
        UserError: not such an address.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
            raise UserError(
                f"{address!r} is no server's address",
                where="--server",
                rule="a scheme, a host and a port",
                fix="--server http://127.0.0.1:8000, as `scalekv serve` prints it",
            )
        self.address = f"{parts.scheme}://{parts.netloc}"

    def check(self, model: str | None) -> str:
        """The name of the model that is served.

        Args:
            model: the one that was asked for; None: any.

        Raises:
            UserError: nobody answers there, or with another model.
        """
        served = str(self._ask("/v1/models")["data"][0]["id"])
        if model is not None and served != model:
            raise UserError(
                f"{self.address} draws with {served}, not with {model}",
                where="--server and --model",
                rule="a server has one model",
                fix=f"leave out --model, or start scalekv serve --model {model}",
            )
        return served

    def pictures(self, choices: Choices) -> Iterator[RemotePicture]:
        """The pictures of a request, in its order, each as soon as it is there.

        Raises:
            UserError: the server refuses it.
            Unsuccessful: the server failed, or went away.
        """
        request = choices.request
        pool = ThreadPoolExecutor(TOGETHER)
        try:
            for index, answer in enumerate(
                pool.map(
                    lambda i: self._ask("/v1/images/generations", body_of(choices, i)),
                    range(request.pictures),
                )
            ):
                yield _picture(answer["data"][0], index)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, headers)
        for _ in range(MOST_WAITS):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                    found: dict[str, Any] = json.load(answer)
                    return found
            except urllib.error.HTTPError as error:
                if error.code != 429:
                    self._fail(error)
                time.sleep(float(error.headers.get("Retry-After", 1)))
            except (OSError, ValueError) as error:
                raise self._gone(error, begun=body is not None) from None
        raise Unsuccessful(f"{self.address}: the queue stays full", "failed")

    def _fail(self, error: urllib.error.HTTPError) -> None:
        try:
            message = str(json.load(error)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            message = f"status {error.code}"
        if error.code == 401:
            raise UserError(
                f"{self.address}: {message}",
                where="--server",
                fix=f"set {KEY_VARIABLE} to the key in the server's --api-key-file",
            )
        if error.code < 500:
            raise UserError(f"{self.address} refuses: {message}", where="--server")
        raise Unsuccessful(f"{self.address}: {message}", "failed")

    def _gone(self, error: Exception, *, begun: bool) -> Exception:
        reason = getattr(error, "reason", error)
        if begun:
            return Unsuccessful(f"{self.address} went away: {reason}", "failed")
        return UserError(
            f"nobody answers at {self.address}: {reason}",
            where="--server",
            rule="the address that a running `scalekv serve` printed",
            fix="start one: scalekv serve",
        )


@dataclass
class RemoteRun(Run):
    """A run whose pictures a server draws."""

    remote: Remote = field(default_factory=lambda: Remote("http://127.0.0.1:8000"))
    _largest: RemotePicture | None = None

    @classmethod
    def of(cls, address: str, options: Options, console: Console, *, json: bool) -> Self:
        """The run that options ask for, with the server's model where none was named.

        Raises:
            UserError: nobody answers there, or an option is not for a server.
        """
        remote = Remote(address)
        for name in ON_THE_SERVER:
            if options.typed.get(name):
                raise UserError(
                    f"{option_name(name)} is for a model that is loaded here",
                    where=f"--server and {option_name(name)}",
                    rule="a server has one of its own",
                    fix=f"leave it out, or give it to scalekv serve: {option_name(name)}",
                )
        model = remote.check(options.typed.get("model"))
        choices = replace(choose(options.changed(model=model)), record=None)
        return cls(choices, console, json=json, remote=remote)

    def _settled(self) -> Settled:
        choices = self.choices
        return settle(choices.request, choices.preset, "cpu", choices.dtype)

    def _drawn(self, settled: Settled, display: Display) -> Iterator[Any]:
        display.stage(f"drawn by {self.remote.address}")
        for picture in self.remote.pictures(self.choices):
            held = picture.cache["held_peak_bytes"]
            if self._largest is None or held > self._largest.cache["held_peak_bytes"]:
                self._largest = picture
            yield picture

    def _measured(self) -> dict[str, Any]:
        assert self._largest is not None
        return {**self._largest.figures, "kinds": self.kinds.to_list()}


def body_of(choices: Choices, index: int) -> dict[str, Any]:
    """The request for picture `index` of all, as the server's API has it."""
    request = choices.request
    width, height = size_of(choices.preset, request.ratio, request.pixels)
    optional = {
        "cfg": request.cfg,
        "cfg_layer": request.cfg_layer,
        "tau": request.tau,
        "top_p": request.top_p,
        "negative": request.negative,
        "stop_after": request.stop_after,
    }
    return {
        "prompt": request.prompts[index // request.num_images],
        "n": 1,
        "size": f"{width}x{height}",
        "seed": request.seed_of(index),
        "budget": request.budget,
        "policy": request.policy,
        "kv_dtype": request.kv_dtype,
        "positive_prompt": request.positive_prompt,
        "truncate": request.truncate,
        **{name: value for name, value in optional.items() if value is not None},
    }


def _picture(item: Mapping[str, Any], index: int) -> RemotePicture:
    ours = item["scalekv"]
    return RemotePicture(
        image=Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))),
        prompt=ours["prompt"],
        seed=ours["seed"],
        index=index,
        settings=ours["settings"],
        cache=ours["report"]["cache"],
        truncated=ours["truncated"],
        seconds=ours["seconds"],
        figures=ours["report"],
    )
