"""Damaged files of every kind that people hand to the program: each is used or refused, in two
seconds of the processor, without a traceback.

    python -m scripts.fuzz --files 1000

Files that are whole are damaged by chance, drawn from --seed, and given to the command that reads
them, in a copy of this process each. Exit codes other than 0 and 2 are faults.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from PIL import Image

from scalekv.cli import engine
from scalekv.cli.main import main as program
from scalekv.cli.pictures.writing import Writing
from scalekv.configs import list_models
from scalekv.configs.output_options import PICTURE_FORMATS
from scalekv.kv.errors import UserError

SECONDS = 2
"""Of the processor; by the clock ten times that, for machines that do other work too."""

MEMORY = 4 << 30
"""Bytes of address space that a reader may have more than this process."""

PIECES = (
    *(b"&a ", b"*a", b"<<: *a", b"!!python/object:os.system ", b"!!binary ", b"%YAML 9.9\n---\n"),
    *(
        b"[" * 5000,
        b"{" * 5000,
        b'{"a":' * 3000,
        b"- " * 3000,
        b"? " * 200,
        b"\t",
        b"\0",
        b"\x1b[2J",
    ),
    *(b"1e999", b"-1", b".inf", b".nan", b"NaN", b"9" * 400, b"0x", b"1_0", b"~", b"null", b"true"),
    *(
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\xc3",
        b"\r",
        b"\xe2\x80\xae",
        b"\xf0\x9f\xa6\x8a",
    ),
    *(
        b'"',
        b"'",
        b",",
        b":",
        b"#",
        b"|",
        b">",
        b"\n",
        b"\\",
        b"--prompt ",
        b"--",
        b"200%",
        b"2000-01-01",
    ),
)
"""What files of these kinds trip over."""

CONFIG = b"model: emoji\nbudget: 20%\nseed: 7\nout: pictures\nquiet: true\ncfg: 1,2,3,3,3,3,3\n"
TEXT = 'an owl\n# no more\na fox\n--prompt "a red apple" --seed 3\nçà et là\n'.encode()
DRAWN = b"a {red|{3::blue|}} owl\nan \\{owl\\}\na {fox|owl\\|s} __here\n"
CSV = (
    b'prompt,seed,budget,cfg,name,id\n"an owl, at night",7,20%|5%,3,one,1\n'
    b'"a ""b""",1,,"1,2,3,3,3,3,3",c,\n'
)
LINES = (
    b'{"prompt": "an owl", "seed": 7, "cfg": 2.5}\n'
    b'{"prompt": "a fox", "budget": ["10%", "5%"], "id": 1}\n'
)


@dataclass(frozen=True)
class Sort:
    """Files of a kind: a whole one, its suffix, and the command lines that read it at PATH."""

    whole: bytes
    suffix: str
    commands: tuple[Callable[[str], list[str]], ...]


def kinds() -> dict[str, Sort]:
    """By name."""
    from importlib.resources import files

    assert "emoji" in list_models()
    shipped = files("scalekv.configs")
    model = shipped.joinpath("models", "emoji.yaml").read_bytes()
    budget = shipped.joinpath("budgets", "emoji", "default.yaml").read_bytes()
    picture = Image.effect_noise((16, 16), 50).convert("RGB")
    settings = {"prompt": "an owl", "seed": 7, "model": "emoji", "policy": "scalekv", "cfg": [1.0]}
    settings |= {"recorded": {"request": {}, "files": {}, "objects": []}, "weights": {}}
    settings |= {"machine": {}, "versions": {}, "device": "cpu", "dtype": "float32"}
    pictures = {f: Writing(f).file(picture, "an owl", settings) for f in PICTURE_FORMATS}
    looked_at = (lambda p: ["inspect", p], lambda p: ["generate", "--from", p])
    report = json.dumps({"format": 1, "pictures": [], "cache": {}}).encode()
    dry = ("batch", "--dry-run")
    return {
        "budget": Sort(budget, ".yaml", (lambda p: ["budgets", "show", p, "--model", "emoji"],)),
        "config": Sort(CONFIG, ".yaml", (lambda p: ["config", "--json"], lambda p: ["budgets"])),
        "model": Sort(model, ".yaml", (lambda p: ["models", "show", p],)),
        "text": Sort(TEXT, ".txt", (lambda p: [*dry, p],)),
        "csv": Sort(CSV, ".csv", (lambda p: [*dry, p],)),
        "jsonl": Sort(LINES, ".jsonl", (lambda p: [*dry, p, "--json"],)),
        "json": Sort(
            b"[" + LINES.replace(b"}\n{", b"},\n{") + b"]", ".json", (lambda p: [*dry, p],)
        ),
        "wildcards": Sort(DRAWN, ".txt", (lambda p: [*dry, p, "--wildcards", "on"],)),
        **{name: Sort(data, f".{name}", looked_at) for name, data in pictures.items()},
        "report": Sort(report, ".json", (lambda p: ["report", p, "--json"],)),
    }


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """The file with a few damages."""
    data = bytearray(whole)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        place = chance.randrange(len(data) + 1)
        end = min(place + chance.choice((1, 2, 5, 40)), len(data))
        match chance.randrange(6):
            case 0:
                data[place:place] = chance.choice(PIECES)
            case 1:
                data[place:end] = chance.choice(PIECES)
            case 2:
                del data[place:end]
            case 3:
                data[place:place] = data[place:end] * chance.choice((1, 2, 100))
            case 4:
                data[place:end] = chance.randbytes(end - place)
            case 5 if chance.random() < 0.3:
                del data[place:]
    return bytes(data)


def outcome(arguments: list[str], config: Path | None, output: Path) -> int:
    """The exit code of a command in a copy of this process; minus a signal's number where one
    ended it, and minus SIGKILL where the clock did."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            used = int(time.process_time())
            resource.setrlimit(resource.RLIMIT_CPU, (used + SECONDS, used + SECONDS + 1))
            resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY,) * 2)
            file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            engine.load = _enough  # type: ignore[assignment]
            if config is not None:
                os.environ["SCALEKV_CONFIG"] = str(config)
            code = program(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    until = time.monotonic() + 10 * SECONDS
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return -9
        time.sleep(0.002)


def _import_all(folder: Path, found: dict[str, Sort]) -> None:
    """Runs every command once, so that copies of this process import nothing any more."""
    for name, kind in found.items():
        file = folder / f"whole{kind.suffix}"
        file.write_bytes(kind.whole)
        for command in kind.commands:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                code = program(command(str(file)))
            assert code in (0, 2), (name, code)
        file.unlink()


def _enough(*_: object, **__: object) -> None:
    raise UserError("read to the end")


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def fuzz(folder: Path, count: int, seed: int) -> Iterator[str]:
    """Reads so many damaged files; yields what is to be told, and faults as "fault: ..."."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    chance, found = random.Random(seed), kinds()
    _import_all(folder, found)
    ended: dict[str, Counter[int]] = {name: Counter() for name in found}
    faults = 0
    for number in range(count):
        name = list(found)[number % len(found)]
        kind = found[name]
        file, output = folder / f"f{number}{kind.suffix}", folder / "said"
        file.write_bytes(kind.whole if number < len(found) else damaged(kind.whole, chance))
        command = chance.choice(kind.commands)(str(file))
        code = outcome(command, file if name == "config" else None, output)
        ended[name][code] += 1
        text = output.read_text(encoding="utf-8", errors="replace")
        if code not in (0, 2) or "Traceback" in text:
            faults += 1
            kept = Path(tempfile.gettempdir()) / f"fuzz-{seed}-{number}{kind.suffix}"
            kept.write_bytes(file.read_bytes())
            last = (text.strip().splitlines() or [""])[-1]
            yield f"fault: {' '.join(command[:-1])} {kept}: exit code {code}: {last[:300]}"
        file.unlink()
    for name, codes in ended.items():
        told = ", ".join(f"{n} times {code}" for code, n in sorted(codes.items()))
        yield f"{name}: exit codes {told}"
    yield f"{count} files: {faults} hung over {SECONDS} s, broke or showed a traceback"


def print_told(lines: Iterable[str]) -> int:
    """Prints lines as they come; how many of them tell of a fault."""
    faults = 0
    for line in lines:
        print(line, flush=True)
        faults += line.startswith("fault")
    return faults


def main() -> int:
    """Runs it and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        faults = print_told(fuzz(Path(folder), chosen.files, chosen.seed))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
