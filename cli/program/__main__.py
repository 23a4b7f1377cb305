"""Where the program starts: `scalekv`, or `python -m scalekv`. Knows signals and one function."""

from __future__ import annotations

import sys

from scalekv.cli.console.interrupts import leave_at_once


def main() -> int:
    """Runs the command line of this process and returns its exit code."""
    leave_at_once()  # before anything else is imported: a Ctrl-C then is no traceback of an import
    from scalekv.cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
