"""Prompts to text features, by a T5 encoder loaded through transformers.

Knows prompts and token limits; nothing of the transformer that reads the features.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from scalekv.infinity_patch.compute.exact import exact_float32
from scalekv.infinity_patch.model.tokens import MAX_TOKENS, read_tokenizer
from scalekv.kv.autocast import without_autocast
from scalekv.kv.errors import UserError

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
            folder: in the layout of transformers: config, safetensors, tokenizer files.
            dtype: of its weights, but what transformers keeps in float32.
            features_on: where features are wanted; None: where they are made.
            keep: False lets `rest` free the weights; they are read again when a prompt comes.

        Raises:
            UserError: missing or damaged files.
        """
        self.folder, self.device, self.dtype, self.keep = folder, device, dtype, keep
        self._features_on = features_on or device
        self._known: OrderedDict[str, Tensor] = OrderedDict()
        self.model: Any = self._read()
        self.nbytes: int = sum(p.nbytes for p in self.model.parameters())
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
        with torch.device(self.device):  # whatever the caller's default is, as with autocast
            batch = self.tokenizer(
                prompt, return_tensors="pt", truncation=True, max_length=MAX_TOKENS
            ).to(self.device)
            with without_autocast(batch.input_ids):
                out = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        features: Tensor = out.last_hidden_state[0]
        return features.to(self._features_on, torch.float32)

    def _read(self) -> Any:
        """The encoder from its files; the tokenizer with it."""
        from transformers import PreTrainedTokenizerFast, T5EncoderModel

        try:
            # from the one file that counts tokens too: a class that another file names would
            # replace parts of it by its own
            counted = read_tokenizer(self.folder / "tokenizer.json")
            with quiet_transformers(), torch.device("cpu"):
                self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=counted)
                loaded: Any = T5EncoderModel.from_pretrained(
                    self.folder,
                    dtype=self.dtype,
                    local_files_only=True,
                    use_safetensors=True,
                    output_loading_info=True,
                )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise _damaged(self.folder, str(error).splitlines()[0]) from error
        model, found = loaded
        # what the file lacks would otherwise hold chance values
        if missing := sorted(found["missing_keys"]):
            raise _damaged(self.folder, f"{missing[0]} is missing")
        return model.eval().requires_grad_(False).to(self.device)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside, transformers draws no bars and warns of nothing; afterwards it is as it was."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    no_bars_of_the_hub = are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # the hub's too
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        with warnings.catch_warnings():  # the hub's say that HF_HUB_DISABLE_PROGRESS_BARS decides
            warnings.simplefilter("ignore", UserWarning)
            if bars:
                logging.enable_progress_bar()
            if no_bars_of_the_hub:
                disable_progress_bars()


def _damaged(folder: Path, rule: str) -> UserError:
    return UserError(
        "the text encoder cannot be loaded",
        where=str(folder),
        rule=rule,
        fix="fetch the model's files again",
    )
