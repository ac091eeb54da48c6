"""What a corpus is made of: a document, and how a JSON or table record becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sparsemix.checks import check


class Document(NamedTuple):
    """One text, the domain it counts for, and the prompt before it whose tokens carry no loss."""

    text: str
    domain: str
    prompt: str = ""


def document_from_record(record: Any, domain: str, where: str) -> Document:
    """The document in a record with `text`, or with `prompt` and `completion`; it may name its own domain.

    Raises:
        ValueError: not a mapping, neither form of keys, a value that is no text.
    """
    check(isinstance(record, Mapping), where, "must be an object", type(record).__name__, 'write {"text": ...}')
    if "text" in record:
        names = {"text": "text"}
    else:
        check(
            "prompt" in record and "completion" in record,
            where,
            "must have text, or prompt and completion",
            f"{sorted(record)}",
            "rename the columns",
        )
        names = {"text": "completion", "prompt": "prompt"}
    values = {field: _text(record[name], f"{where}: {name}") for field, name in names.items()}
    given = record.get("domain")
    return Document(domain=domain if given is None else _text(given, f"{where}: domain"), **values)


def _text(value: Any, where: str) -> str:
    """`value`, which must be a string that UTF-8 can hold (JSON escapes can spell half a surrogate pair)."""
    check(
        isinstance(value, str),
        where,
        "must be a string",
        type(value).__name__,
        "correct or remove the record",
    )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: must be Unicode text, got {error.reason}; correct the record") from None
    return value
