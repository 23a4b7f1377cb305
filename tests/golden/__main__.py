"""`python -m tests.golden [DIR]`: replay every case of a folder, one line a case."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.golden.replay import cases, replay

OWN = Path(__file__).parent / "cases"


def main() -> int:
    """Exit status: 1 when a case fails or the folder has none."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=OWN)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    found = cases(args.folder)
    if not found:
        print(f"no recorded cases in {args.folder}", file=sys.stderr)
        return 1
    failed = 0
    for path in found:
        outcome = replay(path, args.device)
        print(outcome.line(), flush=True)
        for failure in outcome.failures:
            print(f"  {failure}", file=sys.stderr)
        failed += not outcome.ok
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
