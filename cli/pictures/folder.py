"""Where results go: names that overwrite nothing, files that appear whole or not at all.

Knows files and names; nothing of models or of what is printed.
"""

from __future__ import annotations

import io
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from PIL.PngImagePlugin import PngInfo

from scalekv.cli.console.errors import Unsuccessful
from scalekv.cli.console.stdout import to_json
from scalekv.configs.whole_files import give_name, write_hidden
from scalekv.kv.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

FORMAT = 1
"""Version of the JSON in sidecars, pictures and reports; raised when a key changes its meaning."""

CHUNK = "scalekv"
"""Keyword of the PNG text chunk that holds the settings as JSON."""

PROMPT_CHUNK = "Description"
"""Keyword of the chunk with the prompt, one of those the PNG standard names; "prompt" is what
ComfyUI reads its graph from."""

JOB_CHUNK = "scalekv-job"
"""Keyword of the chunk by which a batch recognises its own picture."""

SLUG_LENGTH = 40  # characters; at four bytes each a name stays far below the usual 255 bytes


def slug(text: str) -> str:
    """A short file name part that reminds of the text: letters with their marks, digits and
    hyphens."""
    letters = _letters(text.casefold())
    if not letters.isascii():
        letters = "".join(filter(_can_be_in_a_name, letters))
    words = re.sub("-+", "-", letters).strip("-")
    if len(words) > SLUG_LENGTH:
        whole_words = words[: SLUG_LENGTH + 1].rpartition("-")[0]
        long_enough = len(whole_words) >= SLUG_LENGTH // 2
        words = whole_words if long_enough else words[:SLUG_LENGTH].strip("-")
    return words or "picture"


def _can_be_in_a_name(character: str) -> bool:
    """False where file names are in an encoding that lacks it, as in the POSIX locale."""
    try:
        os.fsencode(character)
    except UnicodeEncodeError:
        return False
    return True


def _letters(text: str) -> str:
    """The text with hyphens for what is no part of a word. Vowel signs, of Hindi and Arabic, are
    marks (M) and belong to the letter before; joiners (Cf) have no width and mean nothing here."""
    if text.isascii():
        return re.sub(r"[\W_]", "-", text)
    out: list[str] = []
    for character in unicodedata.normalize("NFC", text):
        kind = unicodedata.category(character)
        if kind[0] in "LN" or (kind[0] == "M" and out and out[-1] != "-"):
            out.append(character)
        elif kind != "Cf":
            out.append("-")
    return "".join(out)


def png_bytes(
    image: Image.Image, prompt: str, settings: Mapping[str, Any], job: str | None = None
) -> bytes:
    """A picture as a file, with its settings inside.

    Args:
        settings: enough to make the picture again.
        job: what a batch knows the picture by.
    """
    texts = PngInfo()
    texts.add_text(CHUNK, json.dumps({"format": FORMAT, **settings}))
    texts.add_text(PROMPT_CHUNK, prompt)
    if job is not None:
        texts.add_text(JOB_CHUNK, job)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=texts)
    return buffer.getvalue()


@dataclass(frozen=True)
class Attached:
    """A file that belongs to a picture, under a hidden name of the same folder so far.

    Attributes:
        what: the sidecar's key for it.
        hidden: where it is.
        suffix: what its name ends in, after the picture's.
        facts: what the sidecar says of it besides its name.
    """

    what: str
    hidden: Path
    suffix: str
    facts: Mapping[str, Any]


class CannotWrite(Unsuccessful):
    """What could be written to no longer can: no space is left, or it is gone."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"cannot write to {path}: {error.strerror or error}", "failed")


class OutputFolder:
    """A folder that pictures, sidecars and reports are put into.

    Every file is written under a hidden name first and then given its name, which fails if the
    name is taken; another one is then tried. So nothing is ever overwritten, by two runs at once
    neither, and an interruption leaves no half-written file under a name that people read.

    What cannot be written is refused (`UserError`) until `prepare` has shown that the folder is
    one that can be written to, and after that a failure (`CannotWrite`).
    """

    def __init__(self, path: Path, owner: str = "") -> None:
        """
        Args:
            owner: marks hidden files, so that whoever is the only one of this name can remove what
                was left of them by a kill.
        """
        self.path = path
        self._hidden = f".scalekv-{owner}{'-' if owner else ''}"
        self._made: list[Path] = []
        self._report: Path | None = None
        self._prepared = False

    def prepare(self) -> None:
        """Makes the folder and proves that files can be made in it.

        Raises:
            UserError: they cannot.
        """
        try:
            missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
            for folder in reversed(missing):
                folder.mkdir(exist_ok=True)
                self._made.append(folder)
            probe = self._write(b"")
            probe.unlink()
            self._prepared = True
        except OSError as error:
            self.discard_if_empty()
            self._refuse(error)

    def discard_if_empty(self) -> None:
        """Takes the folder away again if `prepare` made it and nothing came into it."""
        for folder in reversed(self._made):
            try:
                folder.rmdir()
            except OSError:
                return
        self._made.clear()

    def save_picture(
        self,
        image: Image.Image,
        prompt: str,
        seed: int,
        settings: Mapping[str, Any],
        sidecar: Mapping[str, Any],
        attached: Attached | None = None,
    ) -> tuple[Path, Path]:
        """Writes a picture and its sidecar.

        Args:
            settings: embedded in the picture, enough to make it again.
            sidecar: what the JSON file beside it says, besides the picture's file name.
            attached: a file that is named with them; it is removed where that fails.

        Returns:
            The paths of picture and sidecar, which differ in the suffix alone.

        Raises:
            UserError, CannotWrite: the folder cannot be written to; then neither file exists.
        """
        png = png_bytes(image, prompt, settings)
        try:
            for name in _numbered(f"{seed}-{slug(prompt)}"):
                if self.place(name, png, sidecar, attached):
                    return self.path / f"{name}.png", self.path / f"{name}.json"
        finally:
            if attached is not None:
                attached.hidden.unlink(missing_ok=True)
        raise AssertionError("unreachable: names do not run out")

    def place(
        self,
        name: str,
        png: bytes,
        sidecar: Mapping[str, Any],
        attached: Attached | None = None,
    ) -> bool:
        """Gives a picture and its sidecar a name; False: it is taken, and nothing was done.

        Raises:
            UserError, CannotWrite: the folder cannot be written to; then neither file exists.
        """
        picture_path, sidecar_path = self.path / f"{name}.png", self.path / f"{name}.json"
        if picture_path.exists() or sidecar_path.exists():
            return False
        content = {"format": FORMAT, "file": picture_path.name, **sidecar}
        before = [sidecar_path]
        if attached is not None:
            before.append(self.path / f"{name}{attached.suffix}")
            content[attached.what] = {"file": before[1].name, **attached.facts}
        # The sidecar first: whoever sees the picture finds it described.
        if not self._put(sidecar_path, to_json(content).encode()):
            return False
        placed = False
        try:
            if attached is None or self._name(attached.hidden, before[1]):
                placed = self._put(picture_path, png)
            else:
                before.pop()  # somebody else's
        finally:
            if not placed:
                for path in before:
                    path.unlink(missing_ok=True)
        return placed

    def _name(self, hidden: Path, path: Path) -> bool:
        try:
            return give_name(hidden, path)
        except OSError as error:
            self._refuse(error)

    def remove_leftovers(self) -> None:
        """Removes hidden files of this owner's that a kill left behind."""
        for hidden in self.path.glob(f"{self._hidden}*.part"):
            hidden.unlink(missing_ok=True)

    def save_report(self, report: Mapping[str, Any]) -> Path:
        """Writes report.json, or report-2.json where there is one already, and so on; from the
        second time on, in place of the one written before.

        Raises:
            UserError, CannotWrite: the folder cannot be written to; what was written before is
                still whole.
        """
        if self._report is None:
            self._report = self.save_numbered("report", ".json", to_json(report).encode())
        else:
            self.replace(self._report, to_json(report).encode())
        return self._report

    def save_together(self, files: Mapping[str, bytes], *, replace: bool) -> None:
        """Writes files that belong together, in their order; all of them or none.

        Args:
            replace: overwrite files of these names; each is whole, old or new, at any moment.

        Raises:
            UserError, CannotWrite: a name is taken, or the folder cannot be written to.
        """
        hidden: dict[Path, Path] = {}
        placed: list[Path] = []
        try:
            for name, content in files.items():
                hidden[self.path / name] = self._write(content)
            for path, written in hidden.items():
                if replace:
                    os.replace(written, path)
                elif give_name(written, path):
                    placed.append(path)
                else:
                    raise UserError(
                        f"{path} is there already",
                        where="--out",
                        rule="nothing is overwritten",
                        fix="--overwrite to replace it, or another name with --out",
                    )
            placed.clear()
        except OSError as error:
            self._refuse(error)
        finally:
            for path in (*hidden.values(), *placed):
                path.unlink(missing_ok=True)

    def save_page(self, page: str) -> Path:
        """Writes the page that goes with the report: its name with the ending .html.

        Raises:
            UserError, CannotWrite: the folder cannot be written to.
        """
        if self._report is None:
            return self.save_numbered("report", ".html", page.encode())
        path = self._report.with_suffix(".html")
        self.replace(path, page.encode())
        return path

    def save_numbered(self, stem: str, suffix: str, content: bytes) -> Path:
        """Writes a file under the first free name: STEM, STEM-2 and so on.

        Raises:
            UserError, CannotWrite: the folder cannot be written to.
        """
        for name in _numbered(stem):
            path = self.path / f"{name}{suffix}"
            if not path.exists() and self._put(path, content):
                return path
        raise AssertionError("unreachable: names do not run out")

    def create(self, name: str, content: bytes) -> Path:
        """Writes a file under this name and no other.

        Raises:
            UserError, CannotWrite: the name is taken, or the folder cannot be written to.
        """
        path = self.path / name
        if path.exists() or not self._put(path, content):
            raise UserError(
                f"{path} exists already",
                where=str(path),
                rule="nothing is overwritten",
                fix="choose another name",
            )
        return path

    def replace(self, path: Path, content: bytes) -> None:
        """Writes a file of the folder whether it is there or not, whole at any moment.

        Raises:
            UserError, CannotWrite: the folder cannot be written to.
        """
        try:
            hidden = self._write(content)
            try:
                os.replace(hidden, path)
            finally:
                hidden.unlink(missing_ok=True)
        except OSError as error:
            self._refuse(error)

    def _put(self, path: Path, content: bytes) -> bool:
        """Makes a whole new file; False: the name is taken."""
        try:
            hidden = self._write(content)
            try:
                return give_name(hidden, path)
            finally:
                hidden.unlink(missing_ok=True)
        except OSError as error:
            self._refuse(error)

    def _write(self, content: bytes) -> Path:
        return write_hidden(self.path, self._hidden, content)

    def _refuse(self, error: OSError) -> NoReturn:
        if self._prepared:
            raise CannotWrite(self.path, error) from error
        raise UserError(
            f"cannot write to the folder {self.path}: {error.strerror}",
            where="--out",
            rule="a folder that exists or can be made, writable and with space left",
            fix="name another folder with --out DIR",
        ) from error


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    yield from (f"{stem}-{number}" for number in count(2))
