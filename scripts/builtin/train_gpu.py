"""Train the next built-in model on a GPU, in one call of a few minutes.

    python -m scripts.builtin.bundle                  # once, with a network
    python -m scripts.builtin.train_gpu --out OUT     # on the GPU machine, without one

Renders the drawings, trains the picture tokenizer on, then the transformer with its text encoder,
from the weights in the package on (see `--start`). The same call goes on where a stopped one left
off; a longer training is several runs, each beginning with what `ship --run` took from the one
before. Writes six files of at most 16 MB into OUT.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scripts.builtin import bare


def main() -> None:
    """Make everything importable, then run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], add_help=False)
    parser.add_argument("--bundle", type=Path, default=Path("data/builtin/bundle"))
    known, _ = parser.parse_known_args()
    if not known.bundle.is_dir() and not {"-h", "--help"} & set(sys.argv):
        raise SystemExit(f"no bundle at {known.bundle}\nfix: python -m scripts.builtin.bundle")
    bare.prepare(known.bundle / "wheels", known.bundle.parent / "bare")
    from scripts.builtin.gpu import run

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parser])
    run.arguments(parser)
    args = parser.parse_args()
    log = run.run(args)
    print(f"{args.out}: {log['seconds']} seconds")


if __name__ == "__main__":
    main()
