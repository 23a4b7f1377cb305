"""One generation, in numbered stages: text, schedule, patched scale loop, decoding."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from scalekv.infinity_patch.asked.check import check_lengths, check_pictures
from scalekv.infinity_patch.asked.request import Request
from scalekv.infinity_patch.asked.settled import Settled, settle
from scalekv.infinity_patch.files.hashes import model_hashes
from scalekv.infinity_patch.files.hub import model_files
from scalekv.infinity_patch.generation.batching import (
    MOST,
    batch_size_of,
    free_memory,
    out_of_memory,
)
from scalekv.infinity_patch.generation.patch import caches_of
from scalekv.infinity_patch.generation.record import record
from scalekv.infinity_patch.generation.scales import DrawnScales, scales_of
from scalekv.infinity_patch.generation.turns import refuse_while_held, turn
from scalekv.infinity_patch.loading.loader import Pipeline
from scalekv.infinity_patch.machine.computes import machine_of, on_threads
from scalekv.infinity_patch.model.scale_loop import to_uint8
from scalekv.infinity_patch.model.tokens import cut_prompt
from scalekv.kv.autocast import without_autocast
from scalekv.kv.caches.caches import Caches
from scalekv.kv.dtypes import DTYPE_NAMES
from scalekv.kv.errors import UserError

AHEAD = 4 * MOST  # pictures encoded in one go; the features of thousands would need much memory


@dataclass(frozen=True)
class Progress:
    """How far a generation is: picture and scale from 0, the latter just done.

    together: pictures from `picture` on that go through the scales at once.
    """

    picture: int
    pictures: int
    scale: int
    scales: int
    held_bytes: int
    together: int = 1


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    settings: everything that is needed to make it again; cache: the ledger of its batch's caches,
    whose shape counts the sequences of all pictures in it; truncated: what was cut off the prompt,
    or None; seconds: its share of its batch's scales, and its decoding; together: pictures that
    were in its batch.
    """

    image: Image.Image
    prompt: str
    seed: int
    index: int
    settings: dict[str, Any]
    cache: dict[str, Any]
    truncated: str | None
    seconds: float
    together: int = 1


class NotFinite(ArithmeticError):
    """A picture was computed from numbers that are not finite, so that it shows nothing."""

    def __init__(self, what: str, prompt: str):
        super().__init__(
            f"the {what} of {prompt[:40]!r} are not finite (NaN or infinite): the weights are "
            "damaged, or too large for this precision; try --dtype fp32, and scalekv doctor --full"
        )


@dataclass(frozen=True)
class _Wanted:
    """A picture to come."""

    index: int
    prompt: str
    seed: int


class _Texts:
    """Features of the prompts of a request, encoded a stretch ahead and then let go."""

    def __init__(self, pipeline: Pipeline, request: Request):
        self._text = pipeline.text
        self._text_of = request.text_of
        self._stages = pipeline.stages
        self._prompts = request.prompts
        self._per_prompt = request.num_images
        self._ahead = max(AHEAD, request.batch_size if isinstance(request.batch_size, int) else 0)
        self._features: dict[str, Tensor] = {}

    def of(self, batch: Sequence[_Wanted]) -> list[Tensor]:
        """(len, Ct) of each picture's prompt."""
        if any(wanted.prompt not in self._features for wanted in batch):
            first = batch[0].index // self._per_prompt
            last = (batch[0].index + self._ahead) // self._per_prompt
            coming = list(dict.fromkeys(self._prompts[first : last + 1]))
            texts = [self._text_of(prompt) for prompt in coming]
            with self._stages.stage("encode"):
                self._features = dict(zip(coming, self._text.encode(texts), strict=True))
        return [self._features[wanted.prompt] for wanted in batch]


def generate(
    pipeline: Pipeline,
    request: Request | Settled | str,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_smaller_batch: Callable[[int], None] | None = None,
    on_caches: Callable[[int, Caches], None] | None = None,
    on_bits: Callable[[int, int, Tensor], None] | None = None,
) -> Iterator[Picture]:
    """Generate pictures one batch after another, each picture with a random stream of its own.

    Args:
        request: what to generate; a string is a prompt with everything else as by default. One
            that `check` or `settle` has settled is taken as it is, unless the pipeline turns out
            to be on another device or in another dtype.
            Inside a `with patched(pipeline.model, ...)` block the block's caches are used, and the
            pictures are to be taken before it ends.
        on_smaller_batch: told the new size where memory ran out with a batch and the pictures go
            on in smaller ones.
        on_caches: given the caches of each batch before its first scale, and the number of the
            batch's first picture.
        on_bits: given the number of each batch's first picture, that of a scale, and the bits drawn
            at it, (B, L, d) uint8 on the device; again where memory ran out with the batch. With
            this or `on_caches` nothing is replayed.

    Yields:
        Each picture as soon as it is done.

    Raises:
        UserError: a request that cannot be fulfilled, before the first picture; or a picture is
            taken where the model is patched otherwise than it was at the call.
        NotFinite: a picture came out of numbers that are not finite; those before it are whole.

    Threads may share a pipeline: they take turns, batch by batch.
    """
    refuse_while_held(pipeline.model)
    settled = settled_on(pipeline, request)
    asked = settled.request
    check_lengths(asked, pipeline.text.counter)
    given = asked.policy is not None or asked.budget is not None or asked.drafters is not None
    with turn(pipeline.model):  # what another thread has patched in for a batch is gone then
        outer = caches_of(pipeline.model)
    if given and outer is not None:
        raise UserError(
            "the model is patched already, and the request names a policy or budget too",
            where="generate(pipeline, request)",
            rule="inside a `with patched(...)` block pictures use the caches of that block",
            fix="leave policy, budget and drafters out of the request, or leave the block",
        )
    return _pictures(pipeline, settled, outer, on_progress, on_smaller_batch, on_caches, on_bits)


def encode_ahead(pipeline: Pipeline, texts: Sequence[str]) -> None:
    """Encodes the texts of requests to come, at most `REMEMBERED`, so that the text encoder can
    rest until all their pictures are drawn.

    Raises:
        UserError: the encoder's files cannot be read.
    """
    with turn(pipeline.model):
        outer = caches_of(pipeline.model)
    with own_turn(pipeline, outer):
        with pipeline.stages.stage("encode"):
            pipeline.text.encode(texts)
        pipeline.text.rest()


def settled_on(pipeline: Pipeline, request: Request | Settled | str) -> Settled:
    """What a request comes to with this pipeline.

    Raises:
        UserError: prompts, seeds or settings that cannot be.
    """
    device = pipeline.device.type
    dtype = DTYPE_NAMES[pipeline.dtype]
    if isinstance(request, Settled):
        assert request.preset == pipeline.preset, (request.preset.name, pipeline.preset.name)
        check_pictures(request.request)
        return request.on(device, dtype)
    asked = Request(request) if isinstance(request, str) else request
    check_pictures(asked)
    return settle(asked, pipeline.preset, device, dtype)


def _pictures(
    pipeline: Pipeline,
    settled: Settled,
    outer: Caches | None,
    on_progress: Callable[[Progress], None] | None,
    on_smaller_batch: Callable[[int], None] | None,
    on_caches: Callable[[int, Caches], None] | None,
    on_bits: Callable[[int, int, Tensor], None] | None,
) -> Iterator[Picture]:
    # 1. what all pictures have in common
    request, schedule = settled.request, settled.schedule
    # 2. text, some pictures ahead; how many go together is seen when the encoder takes its rest
    texts = _Texts(pipeline, request)
    negative = None
    with own_turn(pipeline, outer):
        settings = settings_of(settled, pipeline)
        if request.negative is not None:
            with pipeline.stages.stage("encode"):
                negative = pipeline.text.encode([request.negative])[0]
        texts.of([_wanted(request, 0)])
        pipeline.text.rest()
        size = batch_size_of(settled, pipeline)
    done = 0
    while done < request.pictures:
        batch = [_wanted(request, i) for i in range(done, min(done + size, request.pictures))]
        start = time.perf_counter()

        def report(scale: int, held: int, first: int = done, together: int = len(batch)) -> None:
            if on_progress is not None:
                scales = len(schedule)
                on_progress(Progress(first, request.pictures, scale, scales, held, together))

        # 3. scales, with the caches patched in for this batch alone
        drawn: DrawnScales | None
        try:
            with own_turn(pipeline, outer):
                features = texts.of(batch)
                pipeline.text.rest()
                seeds = [wanted.seed for wanted in batch]
                drawn = scales_of(
                    pipeline,
                    settled,
                    seeds,
                    features,
                    negative,
                    report,
                    on_caches=None if on_caches is None else partial(on_caches, done),
                    on_bits=None if on_bits is None else partial(on_bits, done),
                )
        except Exception as error:
            if not out_of_memory(error):
                raise
            again = pipeline.graphs.clear()  # what recordings hold goes before pictures do
            if len(batch) == 1 and not again:
                raise
            size = len(batch) if again else len(batch) // 2
            drawn = None
        if drawn is None:  # told here, where nothing refers to what the batch had allocated
            free_memory(pipeline.device)
            if size < len(batch) and on_smaller_batch is not None:
                on_smaller_batch(size)
            continue
        # 4. decoding, one by one, when the caches are gone
        share = (time.perf_counter() - start) / len(batch)
        for wanted, code, finite in zip(batch, drawn.codes.split(1), drawn.finite, strict=True):
            start = time.perf_counter()
            with (
                own_turn(pipeline, outer),
                torch.inference_mode(),
                without_autocast(code),
                pipeline.stages.stage("decode"),
            ):
                decoded = pipeline.vae.decode(code)
                pixels = to_uint8(decoded)[0].cpu().numpy()
            # asked only now that the picture is there, so that no device was waited for
            if not finite:
                raise NotFinite("logits", wanted.prompt)
            if not decoded.isfinite().all():
                raise NotFinite("pixels", wanted.prompt)
            text = request.text_of(wanted.prompt)
            cut = cut_prompt(pipeline.text.counter, text, "prompt", request.truncate)
            of_picture = {"prompt": wanted.prompt, "seed": wanted.seed, "batch": len(batch)}
            yield Picture(
                image=Image.fromarray(pixels),
                prompt=wanted.prompt,
                seed=wanted.seed,
                index=wanted.index,
                settings={**of_picture, **_cache_settings(drawn.ledger), **settings},
                cache=drawn.ledger,
                truncated=cut or None,
                seconds=share + time.perf_counter() - start,
                together=len(batch),
            )
        done += len(batch)


def _wanted(request: Request, index: int) -> _Wanted:
    prompt = request.prompts[index // request.num_images]
    return _Wanted(index, prompt, request.seed_of(index))


@contextmanager
def own_turn(pipeline: Pipeline, outer: Caches | None) -> Iterator[None]:
    """This thread's turn with the pipeline, on as many threads as it was loaded for.

    Raises:
        UserError: the model is patched otherwise than when the pictures were asked for.
    """
    with turn(pipeline.model):
        if caches_of(pipeline.model) is not outer:
            ended = "outside the `with patched(...)` block that they were asked for in"
            raise UserError(
                f"pictures are taken {ended if outer is not None else 'inside a later block'}",
                where="generate(pipeline, request)",
                rule="the caches of a picture are those of the block that `generate` is called in",
                fix="take the pictures inside that block, or call generate anew",
            )
        with on_threads(pipeline.threads):
            yield


def _cache_settings(cache: dict[str, Any]) -> dict[str, Any]:
    """Policy and budget, as the ledger of the picture's caches has them."""
    budget = cache["budget"]
    return {
        "policy": cache["policy"],
        "budget": "full" if budget is None else budget["label"],
        "budget_tokens": cache["history_tokens"] if budget is None else budget["mean"],
        "budget_origin": "" if budget is None else budget["origin"],
        "kv_dtype": cache["kv_dtype"],
        **({"constants": cache["coded"]["constants_sha256"]} if "coded" in cache else {}),
    }


def settings_of(settled: Settled, pipeline: Pipeline) -> dict[str, Any]:
    """What, with prompt, seed, policy and budget, makes the same picture again."""
    request = settled.request
    return {
        "model": pipeline.preset.name,
        "cfg": list(settled.cfg),
        "tau": list(settled.tau),
        "cfg_layer": list(settled.cfg_layers),
        "top_p": settled.top_p,
        "ratio": request.ratio,
        "pixels": request.pixels or pipeline.preset.pixels,
        "schedule": str(settled.picture),
        "stop_after": request.stop_after,
        "negative": request.negative,
        "positive_prompt": request.positive_prompt,
        "truncate": request.truncate,
        "device": str(pipeline.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "weights_dtype": pipeline.weights,
        "text_device": str(pipeline.text.device),
        "text_dtype": pipeline.text.precision.name,
        "weights": model_hashes(model_files(pipeline.preset, pipeline.weights_dir)),
        "recorded": record(request, patched_outside=caches_of(pipeline.model) is not None),
        "machine": machine_of(pipeline.device),
        "versions": {"scalekv": version("scalekv"), "torch": torch.__version__},
    }
