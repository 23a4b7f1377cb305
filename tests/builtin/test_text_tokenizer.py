"""The tokenizer takes any text, gives known words whole, and is the same every time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from scripts.builtin.captions import Row
from scripts.builtin.text_tokenizer import (
    SPACE,
    SPECIAL,
    frequent_pieces,
    merge,
    save,
    tokenizer_of,
    vocabulary_of,
    whole_words,
)

SIZE = 400


@pytest.fixture(scope="module")
def tokenizer(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer of the made-up rows, as transformers loads it beside a T5's configuration."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    save(tokenizer_of(vocabulary_of(rows, SIZE)), folder)
    (folder / "config.json").write_text('{"model_type": "t5"}')
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def test_special_tokens_are_where_t5_has_them(tokenizer: Any) -> None:
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.model_max_length == 512
    assert tokenizer("").input_ids == [1]


def test_words_of_the_captions_are_one_token_each(tokenizer: Any) -> None:
    ids = tokenizer("A red Apple, flat style").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == [
        *(SPACE + "a", SPACE + "red", SPACE + "apple", ","),
        *(SPACE + "flat", SPACE + "style", "</s>"),
    ]


def test_other_spellings_of_a_text_cut_the_same(tokenizer: Any) -> None:
    plain = tokenizer("a flat style octopus, red").input_ids
    assert tokenizer("  A flat-style\n OCTOPUS,red ").input_ids == plain
    assert tokenizer("the cat’s").input_ids == tokenizer("the cat's").input_ids


@pytest.mark.parametrize(
    "text",
    [
        "a red apple, flat style",
        "zürich 東京 😀 naïve piñata",
        "quetzalcoatl's (strange) <0x41> ~{}~ 42%",
        "an octopus wearing 3 backpacks?!",
    ],
)
def test_any_text_comes_back_and_nothing_is_unknown(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert ids[-1] == 1
    assert 2 not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_padding_and_truncation(tokenizer: Any) -> None:
    batch = tokenizer(
        ["apple", "a red apple, flat style"], padding="max_length", max_length=5, truncation=True
    )
    assert [len(ids) for ids in batch.input_ids] == [5, 5]
    assert batch.attention_mask == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.input_ids[0][2:] == [0, 0, 0]
    assert batch.input_ids[1][-1] == 1


def test_the_same_rows_give_the_same_files(rows: list[Row], tmp_path: Path) -> None:
    written = []
    for name in ("once", "again"):
        save(tokenizer_of(vocabulary_of(rows, SIZE)), tmp_path / name)
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"tokenizer.json", "tokenizer_config.json"}


def test_the_vocabulary_says_nothing_twice_and_fits(rows: list[Row]) -> None:
    tokens = [token for token, _ in vocabulary_of(rows, SIZE)]
    assert tuple(tokens[:3]) == SPECIAL
    assert len(tokens) == len(set(tokens)) <= SIZE
    with pytest.raises(ValueError, match="do not fit into a vocabulary of 330"):
        vocabulary_of(rows, 330)


def test_plain_plurals_are_not_kept_whole() -> None:
    counts = Counter({"cat": 1, "cats": 5, "glasses": 2, "bus": 3})
    assert whole_words(counts) == ["bus", "glasses", "cat"]


def test_merging_finds_the_frequent_pieces() -> None:
    assert merge(("a", "n", "a", "n", "a"), ("a", "n")) == ("an", "an", "a")
    assert merge(("a", "a", "a"), ("a", "a")) == ("aa", "a")
    words = ["sing", "ring", "king"]
    assert frequent_pieces(words, 2, set()) == ["in", "ing"]
    assert frequent_pieces(words, 9, {"in"}) == ["ing"]
