"""Where the benchmarks publish their prompts, and fetching them once. Knows addresses; nothing of
what is in the files. No torch.

Nothing is shipped. An address that names a commit can only give one content, and the hub states
hashes; what a branch gives may change. So the list is kept beside the pictures, and its SHA-256
with everything that is drawn from it: pictures of another list are not added to a folder.
"""

from __future__ import annotations

import http.client
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from scalekv.configs.whole_files import replacing
from scalekv.infinity_patch.files.datasets import dataset_files
from scalekv.infinity_patch.files.transfer import DownloadRefused
from scalekv.kv.errors import UserError

RAW = "https://raw.githubusercontent.com"
MOST_LIST_BYTES = 1 << 26
SECONDS = 30.0


@dataclass(frozen=True)
class PromptSource:
    """A list of prompts, a file or several.

    repo: on GitHub, or of a data set on the hub; files: paths; revision: on GitHub a commit, or a
    branch where no commit is known here; "": on the hub.
    """

    repo: str
    files: tuple[str, ...]
    revision: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """What the files are called."""
        return tuple(Path(file).name for file in self.files)

    def fetched(self, folder: Path) -> dict[str, bytes]:
        """The files' content by name: from `folder` where they are there, else fetched to it.

        Raises:
            DownloadRefused: they cannot be had.
        """
        if not self.revision:
            return self._of_the_hub()
        found = {}
        for file, name in zip(self.files, self.names, strict=True):
            kept = folder / name
            if not kept.is_file():
                content = _received(f"{RAW}/{self.repo}/{self.revision}/{file}")
                folder.mkdir(parents=True, exist_ok=True)
                with replacing(kept) as hidden:
                    hidden.write_bytes(content)
            found[name] = kept.read_bytes()
        return found

    def _of_the_hub(self) -> dict[str, bytes]:
        try:
            here = (path for file in self.files for path in dataset_files(self.repo, file))
            return {path.name: path.read_bytes() for path in here}
        except DownloadRefused as refused:
            refused.fix = f"--prompts FOLDER with {', '.join(self.names)}, or call again online"
            raise


def read_files(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The content of a list that is here, by name: of the one file, or of the files of a folder.

    Raises:
        UserError: they cannot be read.
    """
    if len(names) == 1:
        wanted = {path.name: path / names[0] if path.is_dir() else path}
    else:
        wanted = {name: path / name for name in names}
    try:
        return {name: file.read_bytes() for name, file in wanted.items()}
    except OSError as error:
        raise UserError(
            f"cannot read the prompts: {error.strerror or error}",
            where=str(error.filename or path),
            rule="as published: " + ", ".join(names),
        ) from error


def _received(url: str) -> bytes:
    """What is at an address."""
    try:
        if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
            raise URLError("HF_HUB_OFFLINE is set")
        with urlopen(url, timeout=SECONDS) as answer:
            content: bytes = answer.read(MOST_LIST_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadRefused(
            f"the prompts cannot be fetched: {error}",
            where=url,
            rule="they are fetched once, and kept in the folder of --out",
            fix="--prompts FILE, or call again online",
        ) from error
    if len(content) > MOST_LIST_BYTES:
        raise DownloadRefused(f"more than {MOST_LIST_BYTES >> 20} MiB", where=url)
    return content
