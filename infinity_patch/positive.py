"""Prompts that mention people, and what may be added to them for better faces. No torch.

The published code has the same idea under `enable_positive_prompt`, with other words.
"""

from __future__ import annotations

import re

SUFFIX = ", seen from the front, a natural and well-formed face, smooth skin"

_PEOPLE = re.compile(
    r"\b(?:(?:wo)?m[ae]n|boys?|girls?|child(?:ren)?|persons?|people|humans?|adults?|teenagers?"
    r"|(?:grand)?(?:mother|father|son|daughter)s?|sisters?|brothers?|bab(?:y|ies)|lad(?:y|ies)"
    r"|gentlem[ae]n|workers?|employ(?:ee|er)s?|portraits?)\b",
    re.IGNORECASE,
)


def mentions_people(prompt: str) -> bool:
    """Whether a prompt speaks of a person, by whole words: a mandarin is none."""
    return _PEOPLE.search(prompt) is not None


def with_suffix(prompt: str) -> str:
    """The prompt with `SUFFIX` where it mentions people."""
    return prompt.rstrip(" .,") + SUFFIX if mentions_people(prompt) else prompt
