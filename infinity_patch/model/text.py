"""Prompts to text features, by a T5 encoder.

Knows prompts and token limits; nothing of the transformer that reads the features.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from scalekv.infinity_patch.compute.exact import exact_float32
from scalekv.infinity_patch.model.t5 import T5Encoder
from scalekv.infinity_patch.model.tokens import MAX_TOKENS, read_tokenizer
from scalekv.kv.autocast import without_autocast
from scalekv.kv.errors import UserError
from scalekv.kv.to_device import to_device

REMEMBERED = 256
"""Prompts whose features are kept; those of a long prompt take 4 MiB."""


class TextEncoder:
    """A T5 encoder with its tokenizer, and the features of the prompts it has seen last."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype,
        *,
        features_on: torch.device | None = None,
        keep: bool = True,
    ):
        """
        Args:
            folder: config.json, safetensors and tokenizer.json, as transformers lays them out.
            dtype: of its weights, but what a T5 keeps in float32.
            features_on: where features are wanted; None: where they are made.
            keep: False lets `rest` free the weights; they are read again when a prompt comes.

        Raises:
            UserError: missing or damaged files.
        """
        self.folder, self.device, self.dtype, self.keep = folder, device, dtype, keep
        self._features_on = features_on or device
        self._known: OrderedDict[str, Tensor] = OrderedDict()
        self.model: T5Encoder | None = self._read()
        self.nbytes = self.model.nbytes
        """Bytes of the weights while they are in memory."""
        # apart from the one that encodes, which cuts and remembers that it does
        self.counter = read_tokenizer(folder / "tokenizer.json")

    def bytes_on(self, device: torch.device) -> int:
        """Bytes of the weights that are on a device of that type now."""
        loaded = self.model is not None and self.device.type == device.type
        return self.nbytes if loaded else 0

    @torch.inference_mode()
    @exact_float32()
    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Features of each prompt's own tokens, (len, Ct) float32, the closing token's included.

        Prompts run one at a time, so that one's features do not depend on the others.
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
        if self.model is None:
            self.model = self._read()
        tokens = self._cutting.encode(prompt).ids
        with without_autocast(self.model):  # whatever the caller's is
            features = self.model(tokens)
        return to_device(features.float(), self._features_on)

    def _read(self) -> T5Encoder:
        """The encoder from its files; the tokenizer that cuts with it."""
        from scalekv.infinity_patch.loading.text_files import read_encoder

        try:
            self._cutting = read_tokenizer(self.folder / "tokenizer.json")
            self._cutting.enable_truncation(MAX_TOKENS)
            return read_encoder(self.folder, self.dtype, self.device)
        except (OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise _damaged(self.folder, str(error).splitlines()[0]) from error


def _damaged(folder: Path, rule: str) -> UserError:
    return UserError(
        "the text encoder cannot be loaded",
        where=str(folder),
        rule=rule,
        fix="fetch the model's files again",
    )
