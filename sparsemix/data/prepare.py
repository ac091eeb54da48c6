"""From names of sources to a tokenizer and token stores in a folder, made once and used again afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sparsemix.checks import check
from sparsemix.config import config, read_json, to_json
from sparsemix.data.build import build_store
from sparsemix.data.corpus import read_documents
from sparsemix.data.files import write_text
from sparsemix.data.shards import TokenStore
from sparsemix.data.tokenizer import Tokenizer, TokenizerConfig

PREPARED = "prepared.json"
TOKENIZER = "tokenizer.json"

Progress = Callable[[str, int], None]
"""Called with what is being done (`tokenizer` or a source) and how many bytes of text it has read so far."""


@config
class Prepared:
    """What the data in a folder were made from; equal settings may use them again."""

    sources: tuple[str, ...]
    """As given."""
    tokenizer: TokenizerConfig | str
    """How it is learnt, or the fingerprint of a ready one."""
    held_out: float
    """Share of each domain's documents that training never sees."""
    seed: int
    """That chooses them."""


def prepare(
    sources: Sequence[str],
    folder: Path,
    tokenizer: TokenizerConfig | Tokenizer,
    *,
    held_out: float = 0.02,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Tokenizer, list[TokenStore]]:
    """Learn the tokenizer (or take the one given) and build one store a source, or open what `folder` has of that.

    Data that are complete are opened without looking at the sources, so that a run goes on from the very tokens it began
    with; interrupted work goes on with the first piece that is missing.

    Args:
        sources: as `read_documents` takes them; read once, and once more to learn a BPE tokenizer.
        folder: made if need be: `prepared.json`, `tokenizer.json`, `store_000`, ...
        tokenizer: config of one to learn from all sources, or a tokenizer.
        held_out: share of each domain's documents that training never sees, in 0..0.5.
        seed: chooses them.
        progress: see `Progress`.

    Raises:
        ValueError: `folder` has data made from other sources or settings; and what `read_documents` and `build_store`
            raise.
    """
    check(len(sources) > 0, "data", "must name at least one source", "none", "pass a file, a folder or builtin")
    streams = [read_documents(source) for source in sources]  # complains about paths before anything is written
    given = tokenizer.fingerprint if isinstance(tokenizer, Tokenizer) else tokenizer
    wanted = Prepared(sources=tuple(sources), tokenizer=given, held_out=held_out, seed=seed)
    _claim(folder, wanted)
    ready = _tokenizer(sources, folder / TOKENIZER, tokenizer, progress)
    stores = []
    for number, (source, documents) in enumerate(zip(sources, streams)):
        path = folder / f"store_{number:03}"
        if not path.exists():
            report = None if progress is None else _named(progress, source)
            stores.append(build_store(path, documents, ready, held_out=held_out, seed=seed, progress=report))
        else:
            stores.append(TokenStore.open(path))
    return ready, stores
