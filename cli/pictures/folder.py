"""Where results go: names that overwrite nothing, files that appear whole or not at all.

Knows files and names; nothing of models or of what is printed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from scalekv.cli.console.errors import Unsuccessful
from scalekv.cli.console.stdout import to_json
from scalekv.cli.pictures.names import numbered, slug
from scalekv.cli.pictures.writing import FORMAT, USUAL, Writing
from scalekv.configs.whole_files import give_name, write_hidden
from scalekv.kv.errors import UserError

if TYPE_CHECKING:
    from PIL import Image


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
        self.owner = owner
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
        writing: Writing = USUAL,
        name: str | None = None,
        attached: Attached | None = None,
    ) -> tuple[Path, Path]:
        """Writes a picture and its sidecar.

        Args:
            settings: embedded in the picture, enough to make it again.
            sidecar: what the JSON file beside it says, besides the picture's file name.
            writing: the format, and what goes into the picture.
            name: without the suffix; None: its seed and its prompt.
            attached: a file that is named with them; it is removed where that fails.

        Returns:
            The paths of picture and sidecar, which differ in the suffix alone.

        Raises:
            UserError, CannotWrite: the folder cannot be written to; then neither file exists.
        """
        data = writing.file(image, prompt, settings)
        try:
            for free in numbered(name or f"{seed}-{slug(prompt)}"):
                if self.place(free, data, sidecar, writing.suffix, attached):
                    return self.path / f"{free}{writing.suffix}", self.path / f"{free}.json"
        finally:
            if attached is not None:
                attached.hidden.unlink(missing_ok=True)
        raise AssertionError("unreachable: names do not run out")

    def place(
        self,
        name: str,
        data: bytes,
        sidecar: Mapping[str, Any],
        suffix: str,
        attached: Attached | None = None,
    ) -> bool:
        """Gives a picture and its sidecar a name; False: it is taken, and nothing was done.

        Raises:
            UserError, CannotWrite: the folder cannot be written to; then neither file exists.
        """
        picture_path, sidecar_path = self.path / f"{name}{suffix}", self.path / f"{name}.json"
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
                placed = self._put(picture_path, data)
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

    def leave_sign(self) -> Path:
        """Writes a hidden file of a name that no other folder has, to know this one by elsewhere.

        Raises:
            UserError, CannotWrite: the folder cannot be written to.
        """
        try:
            return self._write(b"")
        except OSError as error:
            self._refuse(error)

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
        for name in numbered(stem):
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
