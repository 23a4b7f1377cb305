"""The application: addresses, answers, status codes. What is drawn is the worker's business."""

from __future__ import annotations

import asyncio
import base64
import time
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from scalekv.cli.console.errors import kind_of
from scalekv.cli.serve.kept import Kept
from scalekv.cli.serve.metrics import CONTENT_TYPE, Metrics
from scalekv.cli.serve.wire import ImageRequest, Rejected, Served, parsed, rejection
from scalekv.cli.serve.worker import Closing, Delivery, QueueFull, Ticket, Worker
from scalekv.kv.errors import UserError

if TYPE_CHECKING:
    from scalekv.infinity_patch.asked.settled import Settled

PAGE_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
_POLL_SECONDS = 0.2  # between two looks whether a client is still there


def application(served: Served, worker: Worker, metrics: Metrics, kept: Kept) -> FastAPI:
    """The application around a worker."""
    app = FastAPI(title="scalekv", docs_url=None, redoc_url=None, openapi_url=None)
    page = files("scalekv.cli.serve").joinpath("page", "index.html").read_text(encoding="utf-8")
    born = int(time.time())
    model = {
        "id": served.choices.preset.name,
        "object": "model",
        "created": born,
        "owned_by": "scalekv",
    }

    @app.exception_handler(Rejected)
    async def rejected(_: Request, error: Rejected) -> JSONResponse:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> JSONResponse:
        code = "unknown_url" if error.status_code == 404 else None
        body = Rejected(error.status_code, str(error.detail), code=code).body
        return JSONResponse(body, error.status_code, error.headers)

    @app.get("/", response_class=HTMLResponse)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})

    @app.get("/health")
    async def health() -> JSONResponse:
        ready = worker.ready.is_set()
        return JSONResponse({"status": "ready" if ready else "loading"}, 200 if ready else 503)

    @app.get("/metrics")
    async def shown_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != model["id"]:
            raise Rejected(404, f"there is no model {name[:64]!r} here", code="model_not_found")
        return model

    @app.get("/v1/images/{token}.png")
    async def picture(token: str) -> Response:
        png = kept.find(token)
        if png is None:
            raise Rejected(404, "there is no such picture, or not any more", code="not_found")
        return Response(png, media_type="image/png", headers={"Cache-Control": "no-store"})

    @app.post("/v1/images/generations")
    async def generations(request: Request) -> dict[str, Any]:
        asked = parsed(await request.body())
        job = _submitted(worker, await asyncio.to_thread(served.settled, asked))
        drawn = await _awaited(worker, job, request)
        return {
            "created": int(time.time()),
            "data": [_item(one, asked, request, kept) for one in drawn],
        }

    return app


def _submitted(worker: Worker, settled: Settled) -> Ticket:
    if not worker.ready.is_set():
        raise Rejected(503, "the model is loading", kind="server_error", code="loading")
    try:
        return worker.submit(settled, asyncio.get_running_loop())
    except QueueFull:
        raise Rejected(
            429,
            "too many pictures wait already",
            kind="rate_limit_error",
            code="rate_limit_exceeded",
            retry_after=worker.seconds_to_wait,
        ) from None
    except Closing:
        raise Rejected(
            503, "the server is shutting down", kind="server_error", code="shutting_down"
        ) from None


async def _awaited(worker: Worker, job: Ticket, request: Request) -> list[Delivery]:
    """The pictures of a job, unless its client goes first."""
    try:
        while not job.done.done():
            await asyncio.wait([job.done], timeout=_POLL_SECONDS)
            if not job.done.done() and await request.is_disconnected():
                raise Rejected(499, "the client has gone", code="client_closed_request")
        return job.done.result()
    except Rejected:
        raise
    except UserError as error:
        raise rejection(error) from None
    except Exception as error:
        if kind_of(error) == "out-of-memory":
            raise Rejected(
                503,
                "memory ran out; the server goes on with less at once",
                kind="server_error",
                code="out_of_memory",
                retry_after=worker.seconds_to_wait,
            ) from error
        raise Rejected(
            500, f"the picture failed: {type(error).__name__}", kind="server_error"
        ) from error
    finally:
        if not job.done.done():
            worker.drop(job)


def _item(drawn: Delivery, asked: ImageRequest, request: Request, kept: Kept) -> dict[str, Any]:
    """A picture as the API lists it; what is ours lies under `scalekv`."""
    picture = drawn.picture
    if asked.response_format == "url":
        place = {"url": str(request.url_for("picture", token=kept.keep(drawn.png)))}
    else:
        place = {"b64_json": base64.b64encode(drawn.png).decode()}
    ours = {
        "seed": picture.seed,
        "prompt": picture.prompt,
        "seconds": round(picture.seconds, 3),
        "truncated": picture.truncated,
        "settings": picture.settings,
        "report": drawn.figures,
    }
    return {**place, "scalekv": ours}
