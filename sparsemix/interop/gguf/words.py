"""How a tokenizer cuts text into words before it merges, and what llama.cpp calls that."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers.models import BPE

from sparsemix.checks import check


class Words(NamedTuple):
    """A way to cut text that llama.cpp knows."""

    name: str
    """As files say it."""
    patterns: tuple[str, ...]
    """Regular expressions that text is cut by, one after the other."""
    whole_first: bool = False
    """A word that is a token is taken as it is, without merging."""
    approximate: bool = False
    """llama.cpp cuts before combining marks, which these patterns leave with their letter."""


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SUFFIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LOWER, _UPPER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"

_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIXES}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIXES}?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

KNOWN = (
    Words("gpt-2", (_GPT2,)),
    Words("refact", (r"\p{N}", _GPT2)),
    Words("qwen2", (rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}",)),
    Words("llama-bpe", (rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",), whole_first=True),
    Words("gpt-4o", (_GPT4O,), approximate=True),
    Words("deepseek-v3", (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK)),
)


def words_like(document: dict[str, Any], path: Path) -> str:
    """The name of the way that this tokenizer.json cuts text.

    Raises:
        ValueError: llama.cpp has no such way.
    """
    patterns = _patterns(document.get("pre_tokenizer"))
    if not document["model"]["merges"]:  # then words make no difference
        return "gpt-2"
    known = [words for words in KNOWN if words.patterns == patterns]
    rule, remedy = f"must cut words like {', '.join(words.name for words in KNOWN)}", "use another tokenizer"
    check(bool(known), str(path), rule, f"the pre-tokenizer {document.get('pre_tokenizer')}", remedy)
    (words,) = known
    if words.approximate:
        warnings.warn(f"{path}: llama.cpp cuts words before combining marks, and this tokenizer does not", stacklevel=2)
    if bool(document["model"].get("ignore_merges")) != words.whole_first:
        _check_reachable(document, path)
    return words.name


def merges(document: dict[str, Any]) -> list[tuple[str, str]]:
    """What is merged, first things first; older files have each pair as one string."""
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in document["model"]["merges"])
    return [(left, right) for left, right in pairs]


def _patterns(step: dict[str, Any] | None) -> tuple[str, ...] | None:
    """What a pre-tokenizer cuts by; None: something that no regular expression here says."""
    match step:
        case None:
            return ()
        case {"type": "Sequence", "pretokenizers": list(steps)}:
            parts = [_patterns(part) for part in steps]
            return None if None in parts else tuple(pattern for part in parts if part for pattern in part)
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return (_GPT2,) if step.get("use_regex", True) else ()
        case {"type": "Digits", "individual_digits": True}:
            return (r"\p{N}",)
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
            return (pattern.replace("\r", r"\r").replace("\n", r"\n"),)
    return None


def _check_reachable(document: dict[str, Any], path: Path) -> None:
    """Whether a word that is a token is taken whole makes no difference where merges lead to it as well."""
    model = document["model"]
    merging = BPE(vocab=model["vocab"], merges=merges(document), ignore_merges=False)
    special = {token["content"] for token in document["added_tokens"]}
    lost = [name for name in model["vocab"] if name not in special and len(merging.tokenize(name)) != 1]
    rule = f"every token must come of merges, since llama.cpp fixes ignore_merges to {not model.get('ignore_merges')}"
    check(not lost, str(path), rule, f"{len(lost)} that do not, {lost[0]!r} first" if lost else "", "use another one")
