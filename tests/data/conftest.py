"""A tiny corpus, a byte tokenizer, and a way to build a store of documents given in a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from sparsemix.data import ByteTokenizerConfig, Document, TokenStore, build_store

Build = Callable[..., TokenStore]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """`build(documents, **settings)`: a byte-level store in a folder of its own."""

    def make(documents: Iterable[Document], **settings) -> TokenStore:
        number = len(list(tmp_path.glob("store*")))
        return build_store(tmp_path / f"store{number}", documents, ByteTokenizerConfig().build([]), **settings)

    return make
