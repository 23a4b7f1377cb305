"""A small hub on loopback with tiny models and data sets, speaking the real one's protocol, with
faults."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Hub:
    """What the server holds and how it misbehaves.

    repos: contents by repository and path; large: suffixes of files kept in LFS; token: required
    if set; corrupt: paths sent with a changed byte; cut: path to the bytes after which the
    connection closes, once per entry of the list; slow: path to the seconds before every 64 KiB;
    requests: GETs of contents by path.
    """

    repos: dict[str, dict[str, bytes]]
    large: tuple[str, ...] = (".pth", ".safetensors")
    token: str = ""
    corrupt: set[str] = field(default_factory=set)
    cut: dict[str, list[int]] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    slow: dict[str, float] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)
    url: str = ""
    commit: str = COMMIT

    def describe(self, repo: str) -> dict[str, object]:
        """The answer of the model API with blobs=true."""
        siblings = []
        for name, content in self.repos[repo].items():
            entry: dict[str, object] = {
                "rfilename": name,
                "size": len(content),
                "blobId": git_hash(content),
            }
            if name.endswith(self.large):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        return {"id": repo, "modelId": repo, "sha": self.commit, "siblings": siblings}

    def start(self) -> ThreadingHTTPServer:
        """Serves on a free port of loopback until shut down."""

        class Handler(_Handler):
            hub = self

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        return server


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        api = re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or file
        repo = match[1] if match else ""
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._refuse(401, "RepoNotFound" if api else "GatedRepo")
        if repo not in self.hub.repos:
            return self._refuse(404, "RepoNotFound")
        assert match is not None
        if match[2] not in (None, "main", self.hub.commit):
            return self._refuse(404, "RevisionNotFound")
        if api:
            return self._send(200, json.dumps(self.hub.describe(repo)).encode(), {})
        name = match[3]
        if name in self.hub.statuses:
            return self._refuse(self.hub.statuses[name], "")
        if name not in self.hub.repos[repo] or name in self.hub.gone:
            return self._refuse(404, "EntryNotFound")
        self._send_file(name, self.hub.repos[repo][name], body)

    def _send_file(self, name: str, content: bytes, body: bool) -> None:
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": self.hub.commit,
            "X-Linked-Size": str(len(content)),
            "Accept-Ranges": "bytes",
        }
        if name in self.hub.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        status = 200
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
            self.hub.ranges.append(f"{name} from {start}")
        if body:
            self.hub.requests[name] += 1
        cuts = self.hub.cut.get(name, [])
        cut = cuts.pop(0) if body and cuts else None
        self._send(status, content, headers, cut, body, self.hub.slow.get(name, 0.0))

    def _refuse(self, status: int, code: str) -> None:
        headers = {"X-Error-Code": code, "X-Repo-Commit": self.hub.commit} if code else {}
        self._send(status, b"", headers)

    def _send(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str],
        cut: int | None = None,
        body: bool = True,
        pause: float = 0.0,
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body and not pause:
            self.wfile.write(content[:cut])
        elif body:
            with suppress(ConnectionError):  # whoever asked went away
                for start in range(0, len(content), 1 << 16):
                    time.sleep(pause)
                    self.wfile.write(content[start : start + (1 << 16)])
        if cut is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


SHARDS = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


def tiny_repos() -> dict[str, dict[str, bytes]]:
    """Repositories in the shape of the real ones, with a lot that nobody should fetch."""
    index = json.dumps({"weight_map": SHARDS}).encode()
    return {
        "FoundationVision/Infinity": {
            "README.md": b"read me" * 9,
            "infinity_2b_reg.pth": bytes(range(256)) * 40,
            "infinity_vae_d32reg.pth": b"vae" * 500,
            "infinity_vae_d56_f8_14_patchify.pth": b"8b" * 400,
            "infinity_8b_weights/model.safetensors.index.json": index,
            "infinity_8b_weights/model-00001-of-00002.safetensors": b"one" * 300,
            "infinity_8b_weights/model-00002-of-00002.safetensors": b"two" * 300,
            "infinity_8b_weights/optimizer.bin": b"no" * 900,
        },
        "google/flan-t5-xl": {
            "config.json": b"{}",
            "tokenizer.json": b"[]",
            "tokenizer_config.json": b"{ }",
            "special_tokens_map.json": b"{  }",
            "spiece.model": b"pieces",
            "model.safetensors.index.json": index,
            SHARDS["a"]: b"first" * 100,
            SHARDS["b"]: b"second" * 100,
            "pytorch_model-00001-of-00002.bin": b"no" * 900,
            "tf_model.h5": b"no" * 900,
        },
    }
