"""Run the steps of a Containerfile in a bare root, where no container engine runs.

    debootstrap --variant=minbase bookworm /tmp/root
    sudo python scripts/bare_root.py /tmp/root --arg TORCH_INDEX=https://download.pytorch.org/whl/cpu

The root stands for the base image. RUN steps are run in it by chroot, in order, as the user of that
step; at last the health check is, and its exit code is this program's. A word of a RUN step can be
replaced where the root is another distribution than the base image: --replace 'gcc=4:13.*' gcc.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).parents[1]
FILE = TOP / "Containerfile"
NAMES = Path("/etc/resolv.conf")
"""What a container engine gives every container."""


@dataclass
class Build:
    """What the steps so far have come to.

    Attributes:
        root: the folder that stands for the image.
        arguments: values of ARG that were given.
        replaced: words of RUN steps and what stands for them.
    """

    root: Path
    arguments: dict[str, str]
    replaced: dict[str, str]
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    folder: str = "/"
    user: str = "0"
    check: list[str] = field(default_factory=list)

    def step(self, name: str, rest: str) -> None:
        """Takes one step.

        Raises:
            SystemExit: it failed, or is of no known kind.
        """
        match name:
            case "FROM" | "ENTRYPOINT" | "CMD" | "VOLUME":
                return
            case "ARG":
                key, _, value = rest.partition("=")
                self.environment[key] = self.arguments.get(key, value)
            case "ENV":
                for word in shlex.split(rest):
                    key, _, value = word.partition("=")
                    self.environment[key] = re.sub(r"\$(\w+)", self._value, value)
            case "USER":
                self.user = rest
            case "WORKDIR":
                self.folder = rest
                self._inside(rest).mkdir(parents=True, exist_ok=True)
            case "COPY":
                *sources, target = rest.split()
                for source in sources:
                    self._copy(TOP / source, self._inside(f"{self.folder}/{target}"), len(sources))
            case "RUN":
                words = rest
                for old, new in self.replaced.items():
                    words = words.replace(old, new)
                if code := self.run(["/bin/sh", "-c", words]):
                    sys.exit(f"exit code {code}: RUN {words}")
            case "HEALTHCHECK":
                self.check = json.loads(rest[rest.index("CMD") + 3 :])
            case _:
                sys.exit(f"no such step is known here: {name}")

    def _value(self, name: re.Match[str]) -> str:
        return self.environment.get(name[1], "")

    def run(self, command: Sequence[str]) -> int:
        """Runs a command in the root, as the user and in the folder of this step."""
        values = [f"{key}={value}" for key, value in self.environment.items()]
        shell = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', self.folder]
        group = [] if self.user == "0" else [f"--userspec={self.user}:{self.user}"]
        outer = ["chroot", *group, str(self.root), "/usr/bin/env", "-i", *values, *shell, *command]
        return subprocess.run(outer, check=False).returncode

    def _inside(self, path: str) -> Path:
        return self.root / os.path.normpath(path).lstrip("/")

    def _copy(self, source: Path, target: Path, count: int) -> None:
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignored)
        else:
            shutil.copy(source, target / source.name if count > 1 else target)


def steps(path: Path) -> Iterator[tuple[str, str]]:
    """Name and rest of every step of a Containerfile, continued lines joined."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name, " ".join(rest.split())


def main(arguments: Sequence[str] | None = None) -> int:
    """Takes all steps and then the health check; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="a bare root, as debootstrap makes one")
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--replace", nargs=2, action="append", default=[], metavar=("OLD", "NEW"))
    given = parser.parse_args(arguments)
    if NAMES.exists():
        shutil.copy(NAMES, given.root / "etc")
    build = Build(
        given.root.absolute(),
        dict(word.split("=", 1) for word in given.arg),
        dict(given.replace),
    )
    for name, rest in steps(FILE):
        print(f"{name} {rest}", flush=True)
        build.step(name, rest)
    return build.run(build.check)


if __name__ == "__main__":
    sys.exit(main())
