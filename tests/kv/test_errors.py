"""A word that is not known is refused with all that are, and the nearest."""

from __future__ import annotations

import pytest

from scalekv.kv.errors import UserError, check_one_of

KNOWN = ("geneval", "dpg", "hps")


@pytest.mark.parametrize(
    ("word", "fix"), [("geneva", "did you mean geneval?"), ("x", "name one"), ("", "name one")]
)
def test_an_unknown_word(word: str, fix: str) -> None:
    with pytest.raises(UserError) as refused:
        check_one_of(word, KNOWN, "no such", "HERE", also=", or a file", otherwise="name one")
    found = refused.value
    assert (found.what, found.where, found.fix) == ("no such", "HERE", fix)
    assert found.rule == "one of geneval, dpg, hps, or a file"


def test_a_known_word_passes() -> None:
    for word in KNOWN:
        check_one_of(word, KNOWN, "no such", "HERE")
