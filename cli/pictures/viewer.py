"""Opening a file with what this machine shows pictures by. Knows programs; nothing of pictures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def open_with_viewer(path: Path) -> str:
    """Shows a picture, or a folder, and returns at once.

    Returns:
        Why nothing was opened; "" where something was.
    """
    if sys.platform == "win32":
        try:
            os.startfile(path)
        except OSError as error:
            return str(error)
        return ""
    program = "open" if sys.platform == "darwin" else "xdg-open"
    if shutil.which(program) is None:
        return f"{program} is not installed"
    if program == "xdg-open" and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
        return "there is no display"
    try:
        subprocess.Popen(
            [program, str(path.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        return f"{program}: {error.strerror}"
    return ""
