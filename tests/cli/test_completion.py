"""What shells are offered, asked as they ask: through typer's protocol of environment variables."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from scalekv.cli.main import main
from scalekv.cli.options import values_known
from scalekv.configs.models import list_models, model_named
from scalekv.configs.option import Option
from scalekv.configs.options import BY_NAME, OPTIONS
from scalekv.configs.settings import option_name
from scalekv.infinity_patch.schedules import PIXEL_CLASSES, ratios, sizes_of

Offers = Callable[[str], list[str]]

LISTED = [o for o in OPTIONS if o.commands and list(values_known(o.name, "emoji"))]


@pytest.fixture
def offers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Offers:
    """What bash is offered for the last word of a line."""

    def ask(line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("_SCALEKV_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        assert main(["x"]) == 0
        output = capsys.readouterr()
        assert output.err == ""
        return output.out.split()

    return ask


@pytest.mark.parametrize("option", LISTED, ids=lambda option: option.name)
def test_every_option_with_a_list_completes(option: Option, offers: Offers) -> None:
    name = option.names[0] if option.names else option_name(option.name)
    for command in option.commands:
        assert offers(f"scalekv {command} {name} ") == list(values_known(option.name, "emoji"))


def test_there_are_lists_for_what_has_one() -> None:
    wanted = {"budget", "policy", "kv_dtype", "kv_device", "ratio", "pixels", "size", "model"}
    wanted |= {"device", "dtype", "text_device", "text_dtype", "memory_report"}
    assert wanted <= {option.name for option in LISTED}


def test_lists_are_those_of_the_model(offers: Offers, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "paper-10" not in offers("scalekv generate --budget ")
    assert "paper-10" in offers("scalekv generate --model infinity-2b --budget ")
    assert offers("scalekv generate --ratio ") == ["1:1"]
    assert set(offers("scalekv generate --model infinity-2b --ratio ")) == set(ratios())
    assert offers("scalekv plan --model infinity-2b --pixels ") == list(PIXEL_CLASSES)
    assert offers("scalekv generate --size ") == ["128x128"]
    sizes = offers("scalekv plan --model infinity-2b --size 1024")
    known = [f"{w}x{h}" for w, h in sizes_of(model_named("infinity-2b"))]
    assert sizes == [size for size in known if size.startswith("1024")]
    monkeypatch.setenv("SCALEKV_MODEL", "infinity-8b")
    assert "paper-4" in offers("scalekv generate --budget ")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("scalekv generate --memory-report json,", ["json,html", "json,table", "json,none"]),
        ("scalekv compare x --policy full,snap", ["full,snapkv"]),
        ("scalekv compare x --budget 20%,1", ["20%,10%"]),
        ("scalekv models show inf", [n for n in list_models() if n.startswith("inf")]),
        ("scalekv models default em", ["emoji"]),
        ("scalekv models remove ", []),
        ("scalekv convert x --dtype ", ["fp32", "bf16", "fp16"]),
        ("scalekv convert x --text-encoder f", ["fp32", "fp16"]),
        ("scalekv plan --fit ", ["batch", "budget"]),
        ("scalekv grid x --label s", ["seed"]),
        ("scalekv calibrate --index ", ["paper", "share"]),
        ("scalekv plan --batch-size ", ["auto"]),
        ("scalekv generate --model nothing --budget ", []),
        ("scalekv genera", ["generate"]),
        ("scalekv plan --bo", ["--bound"]),
    ],
)
def test_other_lists(line: str, words: list[str], offers: Offers) -> None:
    assert offers(line) == words


def test_arguments_about_weights(offers: Offers) -> None:
    fetched = offers("scalekv download ")
    assert "infinity-2b" in fetched
    assert not {"emoji", "infinity-20b"} & set(fetched)
    assert "emoji" in offers("scalekv convert ")
    assert "as-published-10" in offers("scalekv budgets show ")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_few_words_too(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_SCALEKV_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    shape = {
        "zsh": ("_arguments '*: :((\"{}\"))'\n", '"{}":"{}"', '"\n"'),
        "fish": ("{}\n", "{}\t{}", "\n"),
    }
    whole, with_words, between = shape[shell]
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "scalekv generate --kv-dtype b")
    main(["x"])
    assert capsys.readouterr().out == whole.format("bf16")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "scalekv generate --kv-dtype ")
    main(["x"])
    assert capsys.readouterr().out == whole.format(between.join(BY_NAME["kv_dtype"].kind.known("")))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "scalekv generate --num")
    main(["x"])
    assert with_words.format("--num-images", "Pictures of each prompt") in capsys.readouterr().out


def test_completion_is_light() -> None:
    code = (
        "import sys; from scalekv.cli.main import main; main(['x']);"
        "sys.exit(' '.join({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)) or 0)"
    )
    environment = {
        "_SCALEKV_COMPLETE": "complete_bash",
        "COMP_WORDS": "scalekv generate --size ",
        "COMP_CWORD": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "128x128\n")
