"""The program as it is run: SIGTERM in the middle of work, with the built-in model behind it."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from tests.cli.serve.conftest import health


def ask(address: str, seed: int) -> Image.Image:
    body = json.dumps({"prompt": "a red apple", "seed": seed}).encode()
    request = urllib.request.Request(
        f"{address}/v1/images/generations", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        item = json.load(answer)["data"][0]
    return Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))


def test_sigterm_loses_nothing_that_was_taken(encoded_before: Callable[..., None]) -> None:
    encoded_before("a red apple")
    command = [sys.executable, "-m", "scalekv", "serve", "--port", "0", "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().strip()
        until = time.monotonic() + 120
        while health(address) != 200 and time.monotonic() < until:
            time.sleep(0.1)
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(ask, address, seed) for seed in range(8)]
            while waiting(address) < 6 and not any(a.done() for a in answers):
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            pictures = [answer.result() for answer in answers]
        assert process.wait(timeout=60) == 0, process.stderr.read()
    assert [picture.size for picture in pictures] == [(128, 128)] * 8


def waiting(address: str) -> int:
    with urllib.request.urlopen(f"{address}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return next(int(float(x.split()[1])) for x in lines if x.startswith("scalekv_queue_pictures "))
