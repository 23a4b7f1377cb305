"""Makes the built-in model's text tokenizer: `python -m scripts.builtin.text_tokenizer`.

A small unigram tokenizer shaped as T5's: `<pad>` 0, `</s>` 1, `<unk>` 2, a `</s>` at the end of
every text. Every word of the captions is one token, so that a small text encoder need not learn
to spell; other words are put together from pieces that are frequent in emojibase's keywords, and
what is left from bytes, so that any text encodes. Texts are lower-cased, and a hyphen in a word
is a blank. Knows captions; nothing of drawings or models.

Writes into DIR what `transformers.AutoTokenizer.from_pretrained(DIR)` reads. The vocabulary is
counted here and not by the library's trainer, whose results differ from run to run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from scalekv.configs.whole_files import replace_text
from scripts.builtin.captions import Row, all_texts, captions_of
from scripts.builtin.dataset import DEFAULT_FOLDER, load_rows

VOCABULARY = 2048  # tokens in all, special ones and bytes among them
SPECIAL = ("<pad>", "</s>", "<unk>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
PRINTABLE = tuple(chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper())
LONGEST = 512  # tokens the text encoder takes
SPACE = "▁"  # begins every piece that begins a word

PIECE_COST = 10.0  # every piece costs this and, the rarer it is, up to 1 more
BYTE_COST = 100.0  # spelled in bytes only where nothing else fits

Pieces = tuple[str, ...]


def normalizer() -> normalizers.Normalizer:
    """What happens to a text before it is cut."""
    return normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex("[‘’]"), "'"),
            normalizers.Replace(Regex(r"(?<=\w)-(?=\w)"), " "),
            normalizers.Replace(Regex(r",(?=\S)"), ", "),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How many texts' words each lower-case word is, after normalising."""
    clean = normalizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(re.findall(r"[a-z]+", clean.normalize_str(text)))
    return counts


def whole_words(counts: Counter[str]) -> list[str]:
    """The words to keep whole, most frequent first: all but plain plurals of others."""
    kept = [word for word in counts if not (word.endswith("s") and word[:-1] in counts)]
    return sorted(kept, key=lambda word: (-counts[word], word))


def merge(pieces: Pieces, pair: tuple[str, str]) -> Pieces:
    """The pieces with every occurrence of the pair joined, from the left."""
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return tuple(merged)


def frequent_pieces(words: Iterable[str], number: int, known: set[str]) -> list[str]:
    """The pieces that byte-pair merging of these words finds first, leaving out known ones.

    Args:
        words: each counts once.
        number: how many to find; fewer come back once nothing occurs twice.
        known: pieces that are in the vocabulary already.
    """
    spelled = [(SPACE, *word) for word in sorted(set(words))]
    found: list[str] = []
    while len(found) < number:
        pairs = Counter(pair for pieces in spelled for pair in itertools.pairwise(pieces))
        if not pairs:
            break
        pair, times = min(pairs.items(), key=lambda item: (-item[1], item[0]))
        if times < 2:
            break
        spelled = [merge(pieces, pair) for pieces in spelled]
        joined = "".join(pair)
        if joined not in known and joined not in found:
            found.append(joined)
    return found


def vocabulary_of(rows: list[Row], size: int = VOCABULARY) -> list[tuple[str, float]]:
    """Every token with its score, in the order of its id.

    The scores make a word the fewest pieces there are, and of equally many the more frequent.

    Raises:
        ValueError: the captions alone have more words than `size` leaves room for.
    """
    counts = count_words(text for row in rows for text in captions_of(row))
    pieces = [SPACE + word for word in whole_words(counts)]
    fixed = [SPACE, *PRINTABLE]
    room = size - len(SPECIAL) - len(fixed) - len(pieces) - len(BYTES)
    if room < 0:
        raise ValueError(f"{len(pieces)} words do not fit into a vocabulary of {size}")
    pieces += frequent_pieces(count_words(all_texts(rows)), room, {*pieces, *fixed})
    pieces += fixed
    return [
        *((token, 0.0) for token in SPECIAL),
        *((piece, -PIECE_COST - rank / len(pieces)) for rank, piece in enumerate(pieces)),
        *((byte, -BYTE_COST) for byte in BYTES),
    ]


def tokenizer_of(vocabulary: list[tuple[str, float]]) -> Tokenizer:
    """The tokenizer with this vocabulary."""
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=True))
    tokenizer.normalizer = normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always"),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Metaspace(replacement=SPACE, prepend_scheme="always"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes what AutoTokenizer reads; each file whole or not at all."""
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": LONGEST,
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True) + "\n")
    replace_text(folder / "tokenizer_config.json", json.dumps(configuration, indent=2) + "\n")


def main() -> None:
    """Makes the tokenizer from the command line."""
    parser = argparse.ArgumentParser(description="Make the text tokenizer of the built-in model.")
    parser.add_argument(
        "--data", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help="the built data set"
    )
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_FOLDER / "text_tokenizer", metavar="DIR"
    )
    arguments = parser.parse_args()
    vocabulary = vocabulary_of(load_rows(arguments.data))
    save(tokenizer_of(vocabulary), arguments.out)
    print(f"{arguments.out}: {len(vocabulary)} tokens", file=sys.stderr)


if __name__ == "__main__":
    main()
