"""Takes out of a result what says whose machine it is from: names of people and machines, and the
folders that files are in. Knows text alone."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LEFT = "…"
"""What stands where something was taken out."""
NOBODY = {"root", "localhost", "user"}
"""Names that say nothing."""
SHORTEST = 3  # letters of a name that is looked for
_ABSOLUTE = re.compile(r"(?<![\w.:/~…])(?:~[\w.-]*)?(?:/[^\s/'\"`:;,()<>|]+)+/?")


def anonymous(value: Any, folders: tuple[Path, ...] = ()) -> Any:
    """The same JSON value without them; of a path its last part stays.

    Args:
        folders: that may have spaces in their names, by which paths are not told from words.
    """
    found = sorted((str(one) for one in (*folders, Path.home(), Path.cwd())), key=len, reverse=True)
    known = [one for one in found if one.count("/") > 1 or len(one) > len("/root")]
    names = [re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE) for name in _names()]

    def cleaned(text: str) -> str:
        for folder in known:
            text = text.replace(f"{folder}/", "/").replace(folder, LEFT)
        text = _ABSOLUTE.sub(lambda match: match[0].rstrip("/").rpartition("/")[2], text)
        for name in names:
            text = name.sub(LEFT, text)
        return text

    def walked(part: Any) -> Any:
        if isinstance(part, str):
            return cleaned(part)
        if isinstance(part, Mapping):
            return {key: walked(entry) for key, entry in part.items()}
        return [walked(entry) for entry in part] if isinstance(part, list | tuple) else part

    return walked(value)


def _names() -> Iterator[str]:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a number without a name, as in containers
        user = ""
    host = socket.gethostname()
    for name in dict.fromkeys((user, host, host.partition(".")[0])):
        if len(name) >= SHORTEST and name.casefold() not in NOBODY:
            yield name
