"""Features of prompts kept in a folder, each in a file of its own, whole or not at all.

A file is found by a hash of everything that its numbers depend on: what encodes (`facts`) and the
prompt. So nothing has to be thrown away when a model, a precision or a machine changes. Knows files
and tensors; nothing of encoders.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from scalekv.configs.whole_files import replacing
from scalekv.infinity_patch.files.text_entries import SUFFIX
from scalekv.kv.errors import UserError

FORMAT = "scalekv-text-1"
"""Of the files and of the code that makes the features, and one of the facts: raised when either
comes to give others."""
FEATURES = "features"
HEADER_BYTES = 1 << 16
"""The most that a file has beside its numbers."""

log = logging.getLogger("scalekv")


@dataclass
class TextCache:
    """A folder of features.

    Attributes:
        folder: where they are.
        facts: what the features depend on besides the prompt, as it is now.
        found, made: prompts whose features were there, and those that were encoded.
    """

    folder: Path
    facts: Callable[[], Mapping[str, str]]
    found: int = 0
    made: int = 0
    _writes: bool = field(default=True, init=False)

    @classmethod
    def at(cls, folder: Path, facts: Callable[[], Mapping[str, str]]) -> TextCache:
        """The cache in a folder, which is made if it is not there.

        Raises:
            UserError: it cannot be a folder.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the text cache cannot be made: {error.strerror}",
                where=str(folder),
                rule="--text-cache names a folder",
                fix="name another, or leave --text-cache out",
            ) from error
        return cls(folder, facts)

    def has(self, prompt: str) -> bool:
        """Whether there is a file for a prompt, which may yet turn out to be damaged."""
        return self._place(self._key(prompt)).is_file()

    def get(self, prompt: str, shape: tuple[int, int], dtype: torch.dtype) -> Tensor | None:
        """The features of a prompt, in the host's memory; None: they are not there, or not as they
        were written, which is logged with the file's name.

        Args:
            shape, dtype: that they have.
        """
        key = self._key(prompt)
        path = self._place(key)
        try:
            size = path.stat().st_size
            if size > shape[0] * shape[1] * dtype.itemsize + HEADER_BYTES:
                raise ValueError(f"{size} bytes are too many")
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                features: Tensor = file.get_tensor(FEATURES).clone()
            if about.get("key") != key:
                raise ValueError("it was written as another one")
            if (tuple(features.shape), features.dtype) != (shape, dtype):
                raise ValueError(f"{tuple(features.shape)} of {features.dtype}")
            if about.get("sha256") != _sha256(features):
                raise ValueError("its numbers were changed")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError) as error:
            reason = (str(error).splitlines() or [""])[0]
            log.warning("the text cache's %s is damaged, and encoded anew: %s", path, reason)
            return None
        self.found += 1
        return features

    def put(self, prompt: str, features: Tensor) -> None:
        """Keeps the features of a prompt. Where the folder cannot be written to, that is logged
        once, and nothing more is kept."""
        self.made += 1
        if not self._writes:
            return
        key = self._key(prompt)
        path = self._place(key)
        about = {**self.facts(), "key": key, "sha256": _sha256(features)}
        try:
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as hidden:
                hidden.write_bytes(save({FEATURES: features.contiguous()}, about))
        except (OSError, SafetensorError) as error:
            self._writes = False
            log.warning("the text cache %s cannot be written to: %s", self.folder, error)

    def to_dict(self) -> dict[str, Any]:
        """Prompts found and made, as JSON values."""
        return {"found": self.found, "made": self.made}

    def _key(self, prompt: str) -> str:
        everything = json.dumps({**self.facts(), "prompt": prompt}, sort_keys=True)
        return hashlib.sha256(everything.encode()).hexdigest()

    def _place(self, key: str) -> Path:
        return self.folder / key[:2] / (key + SUFFIX)


def _sha256(features: Tensor) -> str:
    numbers = features.contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.sha256(numbers.tobytes()).hexdigest()
