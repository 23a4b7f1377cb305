"""Which device and precision the parts of a model get, by name. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from scalekv.configs.spec import DTYPES, WEIGHTS
from scalekv.kv.errors import UserError, check_one_of

DEVICES = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class Placement:
    """What of a model need not be on its device, the text encoder's precision, and threads.

    offload: the transformer's blocks stay in host memory and are sent over one after another.
    text_device: "auto" is the model's. text_dtype: one of `TEXT_DTYPES`; "auto" is fp16 on CUDA, as
    published, and fp32 elsewhere; "int8" computes so and holds linear layers' weights in 8 bits.
    keep_text_encoder: keep it after the prompts are encoded; freed it is read again if more come.
    None: kept, unless it is known that no more come. weights: how the transformer's blocks hold
    theirs, one of `WEIGHTS`: "auto" is as the file has them, else the dtype of the products.
    threads: that a CPU computes with while pictures are made; None leaves torch's number. graphs:
    whether a CUDA device records the scales of pictures of one shape and replays them: "auto" when
    a shape comes a second time, "on" the first time, "off". text_cache: a folder that keeps text
    features for other runs; with one the text encoder is read when a prompt comes that is not
    there. text_read: False where it is known that none comes, for plans. text_first: the texts that
    `load` is given are encoded before the transformer is read, so that the two are never in memory
    together; others that come have the encoder read again.
    """

    offload: bool = False
    text_device: str = "auto"
    text_dtype: str = "auto"
    keep_text_encoder: bool | None = None
    weights: str = "auto"
    threads: int | None = None
    graphs: str = "auto"
    text_cache: Path | None = None
    text_read: bool = True
    text_first: bool = False

    def text_dtype_on(self, device: str) -> str:
        """What the text encoder computes in.

        Args:
            device: the model's, "cpu", "cuda", "cuda:1" or "mps".
        """
        if self.text_dtype not in ("auto", "int8"):
            return self.text_dtype
        place = device if self.text_device == "auto" else self.text_device
        return "fp16" if place.startswith("cuda") else "fp32"  # fp16: as published

    def for_known_prompts(self) -> Placement:
        """The same where all prompts are known at the start: the text encoder is freed."""
        keep = bool(self.keep_text_encoder)
        return replace(self, keep_text_encoder=keep)


def check_device(name: str, where: str) -> None:
    """Refuses an unknown device name.

    Raises:
        UserError: with the names there are.
    """
    if not DEVICES.fullmatch(name):
        raise UserError(
            f"no device {name!r}",
            where=where,
            rule="auto, cpu, mps, cuda, or cuda:1 and so on",
            fix="leave it out to use the best device there is",
        )


def check_dtype(name: str, where: str) -> None:
    """Refuses an unknown precision.

    Raises:
        UserError: with the names there are.
    """
    check_one_of(name, DTYPES, f"no dtype {name!r}", where)


def check_weights(name: str) -> None:
    """Refuses an unknown way to hold weights.

    Raises:
        UserError: with those there are.
    """
    check_one_of(name, WEIGHTS, f"no weights in {name!r}", "--weights")
