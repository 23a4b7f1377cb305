"""How long a prompt may be, and what of a longer one is cut. No torch."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from scalekv.kv.errors import UserError

MAX_TOKENS = 512

CERTAIN = MAX_TOKENS // 2
"""Characters of ASCII that are no more than `MAX_TOKENS` tokens whatever the tokenizer: one each,
and some that it adds. Counting a hundred thousand prompts takes as long as all else of a check."""


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer that neither pads nor cuts, from its tokenizer.json.

    Raises:
        UserError: a damaged file.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for whatever is wrong
        raise UserError(
            f"{path.name} cannot be read: {error}",
            where=str(path),
            rule="a tokenizer.json as the tokenizers library writes it",
            fix="fetch the model's files again",
        ) from error
    return uncut(tokenizer)


def uncut(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer, told neither to pad nor to cut."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def cutting(tokenizer: Tokenizer) -> Tokenizer:
    """A second tokenizer like this one, which cuts what is longer than `MAX_TOKENS`."""
    second = Tokenizer.from_str(tokenizer.to_str())
    second.enable_truncation(MAX_TOKENS)
    return second


def cut_prompt(tokenizer: Tokenizer, prompt: str, where: str, truncate: bool) -> str:
    """What does not fit the text encoder, "" for most prompts. Needs the tokenizer alone.

    The closing token counts, so 511 tokens of text fit.

    Raises:
        UserError: it is too long and may not be cut.
    """
    if prompt.isascii() and len(prompt) <= CERTAIN:
        return ""
    encoding = tokenizer.encode(prompt)
    if len(encoding.ids) <= MAX_TOKENS:
        return ""
    start = encoding.offsets[MAX_TOKENS - 1][0]  # the closing token takes the last place
    if not truncate:
        raise UserError(
            f"the prompt has {len(encoding.ids)} tokens",
            where=where,
            rule=f"at most {MAX_TOKENS} with the closing one",
            fix=f"shorten it, or pass --truncate to drop all from {prompt[start:][:40]!r} on",
        )
    return prompt[start:].strip()
