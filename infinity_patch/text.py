"""Prompts to text features, by a T5 encoder loaded through transformers.

Knows prompts and token limits; nothing of the transformer that reads the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor

from scalekv.infinity_patch.tokens import MAX_TOKENS, uncut
from scalekv.kv.errors import UserError


class TextEncoder:
    """A T5 encoder with its tokenizer."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype):
        """
        Args:
            folder: in the layout of transformers: config, safetensors, tokenizer files.

        Raises:
            UserError: missing or damaged files.
        """
        from transformers import AutoTokenizer, T5EncoderModel
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model = T5EncoderModel.from_pretrained(
                folder, dtype=dtype, local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(
                "the text encoder cannot be loaded",
                where=str(folder),
                rule=str(error).splitlines()[0],
                fix="fetch the model's files again",
            ) from error
        self.model.eval().requires_grad_(False).to(device)
        self.device = device
        # apart from the one that encodes, which cuts and remembers that it does
        self.counter = uncut(Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str()))

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(p.nbytes for p in self.model.parameters())

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Features of each prompt's own tokens, (len, Ct) float32, the closing token's included.

        Prompts run one at a time, so that one's features do not depend on the others.
        """
        features = []
        for prompt in prompts:
            batch = self.tokenizer(
                prompt, return_tensors="pt", truncation=True, max_length=MAX_TOKENS
            ).to(self.device)
            out = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            features.append(out.last_hidden_state[0].float())
        return features
