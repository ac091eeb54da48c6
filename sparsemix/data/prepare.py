"""From names of sources to a tokenizer and token stores in a folder, made once and used again afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from sparsemix.checks import check
from sparsemix.config import config, read_json, to_json
from sparsemix.data.build import build_store
from sparsemix.data.corpus import read_documents
from sparsemix.data.shards import TokenStore
from sparsemix.data.tokenizer import END, Tokenizer, TokenizerConfig
from sparsemix.files import new_folder, write_text

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
    """Learn the tokenizer (or take the one given) and build one store a source, or open what `folder` has.

    The folder appears when all is complete. From then on it is opened without looking at the sources, so
    that a run goes on from the very tokens it began with.

    Args:
        sources: as `read_documents` takes them; read once, and once more to learn a BPE tokenizer.
        folder: of `prepared.json`, `tokenizer.json`, `store_000` and so on.
        tokenizer: config of one to learn from all sources, or a tokenizer.
        held_out: share of each domain's documents that training never sees, in 0..0.5.
        seed: chooses them.
        progress: see `Progress`.

    Raises:
        ValueError: `folder` has data made from other sources or settings; and what `read_documents` and
            `build_store` raise.
    """
    check(len(sources) > 0, "data", "must name at least one source", "none", "pass a file, a folder or builtin")
    given = tokenizer.fingerprint if isinstance(tokenizer, Tokenizer) else tokenizer
    wanted = Prepared(sources=tuple(sources), tokenizer=given, held_out=held_out, seed=seed)
    if folder.exists():
        _check_settings(folder, wanted)
    else:
        streams = [read_documents(source) for source in sources]  # complains about a wrong path first
        with new_folder(folder) as temporary:
            ready = tokenizer if isinstance(tokenizer, Tokenizer) else tokenizer.build(_texts(sources, progress))
            ready.save(temporary / TOKENIZER)
            for number, (source, documents) in enumerate(zip(sources, streams)):
                report = None if progress is None else partial(progress, source)
                path = temporary / _store(number)
                build_store(path, documents, ready, held_out=held_out, seed=seed, progress=report)
            write_text(temporary / PREPARED, to_json(wanted))
    ready = Tokenizer.load(folder / TOKENIZER, tokenizer.end if isinstance(tokenizer, Tokenizer) else END)
    return ready, [_open(folder / _store(number), ready) for number in range(len(sources))]


def _store(number: int) -> str:
    return f"store_{number:03}"


def _check_settings(folder: Path, wanted: Prepared) -> None:
    """Data made from anything else are neither mixed in nor thrown away."""
    found = read_json(Prepared, folder / PREPARED)
    for name in ("sources", "tokenizer", "held_out", "seed"):
        there, asked = getattr(found, name), getattr(wanted, name)
        remedy = "use the same, or another folder"
        check(there == asked, f"{folder}", f"has data prepared with {name}={there!r}", f"{asked!r}", remedy)


def _texts(sources: Sequence[str], progress: Progress | None) -> Iterator[str]:
    """All text that the model will see."""
    size = 0
    for source in sources:
        for document in read_documents(source):
            text = document.prompt + document.text
            size += len(text.encode())
            if progress is not None:
                progress("tokenizer", size)
            yield text


def _open(path: Path, tokenizer: Tokenizer) -> TokenStore:
    store = TokenStore.open(path)
    check(
        store.meta.tokenizer == tokenizer.fingerprint,
        f"{path}",
        f"must have tokens of {TOKENIZER} beside it",
        "those of another tokenizer",
        "prepare the data again in another folder",
    )
    return store
