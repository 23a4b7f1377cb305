"""How the scripts that measure end. Knows refusals and interrupts; nothing of what is measured."""

from __future__ import annotations

import sys
from collections.abc import Callable

from scalekv.kv.errors import UserError


def exit_code(work: Callable[[], None]) -> int:
    """Do a script's work: 0, or 2 with the reason if it is refused, or 130 if it is interrupted."""
    try:
        work()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept, and a second call goes on", file=sys.stderr)
        return 130
    return 0
