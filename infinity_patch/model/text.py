"""Prompts to text features: by an encoder that is read when it is needed, each prompt once.

Knows prompts and token limits; nothing of files, nor of the transformer that reads the features.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from scalekv.infinity_patch.compute.exact import exact_float32
from scalekv.infinity_patch.files.text_cache import TextCache
from scalekv.infinity_patch.model.tokens import cutting
from scalekv.infinity_patch.pieces import REMEMBERED
from scalekv.kv.autocast import without_autocast


@dataclass(frozen=True)
class TextPrecision:
    """Where a text encoder computes, in what, and whether its weights are held in 8 bits."""

    device: torch.device
    dtype: torch.dtype
    in_8_bits: bool = False

    @property
    def name(self) -> str:
        """In a word, as pictures say it."""
        return "int8" if self.in_8_bits else str(self.dtype).removeprefix("torch.")


class TextEncoder:
    """A T5 encoder with its tokenizer, and the features of the prompts it has seen last.

    Attributes:
        precision: how it computes; device, dtype: of that.
        counter: its tokenizer, which does not cut.
        nbytes: of its weights while they are in memory.
        model: transformers' encoder while its weights are in memory, else None.
        was_read: whether its weights ever were.
        cache: where features are kept for other runs; None: nowhere.
    """

    def __init__(
        self,
        read: Callable[[], Any],
        counter: Tokenizer,
        precision: TextPrecision,
        nbytes: int,
        width: int,
        *,
        keep: bool = True,
        cache: TextCache | None = None,
    ):
        """
        Args:
            read: the encoder from its files, its weights on `device`.
            width: of its features, Ct.
            keep: False lets `rest` free the weights; they are read again when a prompt comes.
            cache: features of prompts that were encoded before; None: they are not kept.
        """
        self.precision, self.keep, self.nbytes = precision, keep, nbytes
        self.device, self.dtype = precision.device, precision.dtype
        self.counter, self.cache = counter, cache
        self.model: Any = None
        self.was_read = False
        self._read, self._width = read, width
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    def bytes_on(self, device: torch.device) -> int:
        """Bytes of the weights that are on a device of that type now."""
        loaded = self.model is not None and self.device.type == device.type
        return self.nbytes if loaded else 0

    @torch.inference_mode()
    @exact_float32()
    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Features of each prompt's own tokens, (len, Ct) float32 in the host's memory, the closing
        token's included.

        Prompts run one at a time, so that one's features do not depend on the others.

        Raises:
            UserError: the encoder's files cannot be read.
        """
        features = {}
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._known:
                self._known[prompt] = self._encode(prompt)
            self._known.move_to_end(prompt)
            features[prompt] = self._known[prompt]
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return [features[prompt] for prompt in prompts]

    def load(self) -> Any:
        """The encoder, its weights in memory.

        Raises:
            UserError: its files cannot be read.
        """
        if self.model is None:
            self.model = self._read()
            self.was_read = True
        return self.model

    def rest(self) -> None:
        """Says that no prompt comes for a while: frees the weights unless they are to be kept."""
        if not self.keep and self.model is not None:
            self.free()

    def free(self) -> None:
        """Lets go of the weights; they are read again when a new prompt comes."""
        self.model = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _encode(self, prompt: str) -> Tensor:
        ids = self._cutting.encode(prompt).ids
        features = None
        if self.cache is not None:
            features = self.cache.get(prompt, (len(ids), self._width), self.dtype)
        if features is None:
            features = self._computed(ids).cpu()
            if self.cache is not None:
                self.cache.put(prompt, features)
        return features.to(torch.float32)

    def _computed(self, ids: list[int]) -> Tensor:
        model = self.load()
        with torch.device(self.device):  # whatever the caller's default is, as with autocast
            tokens = torch.tensor(ids)[None]
            with without_autocast(tokens):
                out = model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
        features: Tensor = out.last_hidden_state[0]
        return features

    @cached_property
    def _cutting(self) -> Tokenizer:
        return cutting(self.counter)
