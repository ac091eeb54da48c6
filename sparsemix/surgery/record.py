"""What was done to a model, from edit to edit: in its facts, and in `surgery.json` beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsemix.interop import StoredModel, open_model

RECORD = "surgery.json"


def open_recorded(path: Path) -> StoredModel:
    """The model in a folder, knowing what was done to it: in Hugging Face's format, only our record says that.

    Raises:
        ValueError: there is no model, or the record is damaged.
    """
    model, record = open_model(path), path / RECORD
    if "surgery" in model.facts or not record.is_file():
        return model
    try:
        edits = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{record}: must be JSON, got {error}; restore or remove it") from None
    return model._replace(facts={**model.facts, "surgery": edits})


def with_record(model: StoredModel, record: Mapping[str, Any]) -> StoredModel:
    """The model with one more entry under `surgery` in its facts."""
    return model._replace(facts={**model.facts, "surgery": [*model.facts.get("surgery", []), dict(record)]})
