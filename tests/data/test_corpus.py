"""Every kind of source gives its documents verbatim in a fixed order, or one line that says what is wrong."""

from __future__ import annotations

import json
import os
import random
import tracemalloc
from collections import Counter
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from sparsemix.data import Document, read_documents
from sparsemix.data.builtin import read_builtin
from sparsemix.data.sources import PIECE


def read(source) -> list[Document]:
    return list(read_documents(str(source)))


def error_of(source) -> str:
    with pytest.raises(ValueError) as caught:
        read(source)
    message = str(caught.value)
    assert "\n" not in message
    assert ", got " in message
    assert "; " in message
    return message


def write_rows(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("size", [0, 10, 300, 40_000])
def test_a_text_file_is_cut_into_documents_that_join_to_it(size: int, tmp_path):
    text = ("\ufeffnaïve\r\n" + "line ü\n\n" * size + "no line end")[: size + 20]
    path = tmp_path / "prose.txt"
    path.write_bytes(text.encode())
    documents = read(path)
    assert "".join(document.text for document in documents) == text
    assert {document.domain for document in documents} == {"prose"}
    assert len(documents) >= (100 if size == 40_000 else min(2, size // 100))
    assert all(document.text.endswith("\n") for document in documents[:-1])


def test_a_file_of_one_long_line_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "line.txt"
    with path.open("wb") as file:
        for _ in range(64):
            file.write(b"x" * PIECE)
    tracemalloc.start()
    total = sum(len(document.text) for document in read_documents(str(path)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 64 * PIECE
    assert peak < 16 * PIECE


def test_a_folder_is_read_in_order_with_a_domain_for_each_subfolder(tmp_path, caplog):
    for name, content in {
        "b/two.md": b"two",
        "b/deep/one.md": b"one",
        "a/x.txt": "ü\r\n".encode(),
        "top.py": b"pass",
        "LICENSE": b"free",
        ".git/config": b"hidden",
        "a/.hidden": b"hidden",
        "a/picture.png": b"\x89PNG\0\0",
        "a/latin.txt": b"caf\xe9",
        "a/cut.txt": "ü".encode()[:1],
        "a/empty.txt": b"",
        "c/rows.jsonl": b'{"text": "row"}\n{"text": "mine", "domain": "own"}\n',
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["cell"]}), tmp_path / "c" / "table.parquet")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dead").symlink_to(tmp_path / "nowhere")
    assert read(tmp_path) == [
        Document("free", "LICENSE"),
        Document("pass", "py"),
        Document("ü\r\n", "a"),
        Document("two", "b"),
        Document("one", "b"),
        Document("row", "c"),
        Document("mine", "own"),
        Document("cell", "c"),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: left out 3 files that are not UTF-8 text"
    ]


def test_many_subfolders_are_no_domains(tmp_path):
    for number in range(65):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "mail.txt").write_text("text")
    assert {document.domain for document in read(tmp_path)} == {"txt"}


ROWS = [
    {"text": "plain ü\n", "domain": "d"},
    {"text": "other", "domain": None, "extra": 1},
]
PAIRS = [{"prompt": "2+2=", "completion": "4"}, {"prompt": "", "completion": "5", "domain": "d"}]
EXPECTED = [Document("plain ü\n", "d"), Document("other", "rows")]
EXPECTED_PAIRS = [Document("4", "rows", "2+2="), Document("5", "d")]


def test_json_lines(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", ROWS + PAIRS)
    path.write_text("\ufeff" + path.read_text().replace("\n", "\n \n"))
    assert read(path) == EXPECTED + EXPECTED_PAIRS


def test_parquet(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = ROWS + [{"text": str(number), "domain": "n"} for number in range(1000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=300)
    assert read(path) == EXPECTED + [Document(str(number), "n") for number in range(1000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PAIRS[::-1]), path)
    assert read(path) == EXPECTED_PAIRS[::-1]


def test_hugging_face_dataset_saved_to_disk(tmp_path):
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(tmp_path / "rows")
    assert read(f"hf:{tmp_path}/rows") == EXPECTED
    datasets.DatasetDict(train=table, more=datasets.Dataset.from_list(PAIRS[::-1])).save_to_disk(
        tmp_path / "dict" / "rows"
    )
    assert read(f"hf:{tmp_path}/dict/rows") == EXPECTED
    assert read(f"hf:{tmp_path}/dict/rows@more") == EXPECTED_PAIRS[::-1]
    assert "must name a dataset and split, got" in error_of(f"hf:{tmp_path}/dict/rows@absent")


def test_hugging_face_dataset_of_files(tmp_path):
    (tmp_path / "rows").mkdir()
    write_rows(tmp_path / "rows" / "train.jsonl", [{"text": row["text"]} for row in ROWS])
    write_rows(tmp_path / "rows" / "test.jsonl", [{"text": "held"}])
    assert [document.text for document in read(f"hf:{tmp_path}/rows")] == [row["text"] for row in ROWS]
    assert read(f"hf:{tmp_path}/rows@test") == [Document("held", "rows")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "2: must be JSON"),
        ("[" * 100_000, "2: must be JSON"),
        ("[1]", '2: must be an object, got list; write {"text": ...}'),
        ('{"body": "x"}', "2: must have text, or prompt and completion, got ['body']; rename the columns"),
        (
            '{"prompt": "x"}',
            "2: must have text, or prompt and completion, got ['prompt']; rename the columns",
        ),
        ('{"text": 3}', "2: text: must be a string, got int; correct or remove the record"),
        ('{"text": null}', "2: text: must be a string, got NoneType; correct or remove the record"),
        ('{"text": "a", "domain": 3}', "2: domain: must be a string, got int; correct or remove the record"),
        (
            '{"text": "\\ud800"}',
            "2: text: must be Unicode text, got surrogates not allowed; correct the record",
        ),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    assert error_of(path).startswith(f"{path}:{message}")


def test_other_wrong_sources(tmp_path):
    assert error_of(tmp_path / "absent").endswith("which does not exist; check the path")
    (tmp_path / "empty").mkdir()
    assert "must hold text, got none in" in error_of(tmp_path / "empty")
    (tmp_path / "empty.txt").touch()
    assert "must hold text, got none in" in error_of(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    assert "must be UTF-8 text, got invalid continuation byte; convert it" in error_of(tmp_path / "latin.txt")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9 au lait"}')
    assert "must be UTF-8, got invalid continuation byte" in error_of(tmp_path / "latin.jsonl")
    (tmp_path / "no.parquet").write_bytes(b"nothing")
    assert "must be a Parquet file, got" in error_of(tmp_path / "no.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "body.parquet")
    assert "row 1: must have text, or prompt and completion, got ['body']" in error_of(tmp_path / "body.parquet")
    assert "must name a dataset and split, got" in error_of(f"hf:{tmp_path}/absent")


def test_a_missing_path_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match=r"^data: must be a file, a folder, hf:NAME or builtin, got 'nowhere'"):
        read_documents("nowhere")


def test_the_builtin_corpus_is_the_library_of_this_interpreter():
    documents = list(read_documents("builtin"))
    assert documents == list(read_documents("builtin"))
    size = Counter()
    for document in documents:
        size[document.domain] += len(document.text)
    assert size["library"] > 5_000_000
    assert size["encodings"] > 500_000
    assert set(size) <= {"library", "tests", "gui", "encodings", "decimal", "text", "topics"}
    assert Document(Path(json.__file__).read_text(), "library") in documents


def test_the_builtin_corpus_copes_with_what_is_odd_or_missing(tmp_path):
    for name, content in {
        "ast.py": b"x = 1\r\n",
        "latin.py": b"# -*- coding: latin-1 -*-\n# caf\xe9\n",
        "bad.py": b"# caf\xe9\n",
        "unknown.py": b"# coding: klingon\n",
        "empty.py": b"",
        "test/test_ast.py": b"tests",
        "json/tests/test_json.py": b"json tests",
        "test/cjk.txt": b"\xff\xfe",
        "test/sound.wav": b"\0",
        "test/add.decTest": b"1 + 1",
        "encodings/cp1.py": b"table",
        "idlelib/help.html": b"<p>",
        "tkinter/__init__.py": b"window",
        "pydoc_data/topics.py": b"topics = {}",
        "site-packages/torch.py": b"not ours",
        "_sysconfigdata_linux.py": b"paths of a machine",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    documents = [document for document in read_builtin(tmp_path) if document.domain != "topics"]
    assert documents == [
        Document("x = 1\r\n", "library"),
        Document("# -*- coding: latin-1 -*-\n# café\n", "library"),
        Document("table", "encodings"),
        Document("<p>", "text"),
        Document("json tests", "tests"),
        Document("1 + 1", "decimal"),
        Document("tests", "tests"),
        Document("window", "gui"),
    ]


def test_the_builtin_corpus_is_in_sorted_order_whatever_the_file_system_says(tmp_path):
    names = random.Random(0).sample([f"{number:02}.py" for number in range(30)], 30)
    for name in names:
        (tmp_path / name).write_text(name)
    texts = [document.text for document in read_builtin(tmp_path) if document.domain == "library"]
    assert texts == sorted(names)


def test_the_builtin_corpus_does_without_topics(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydoc_data.topics", None)
    (tmp_path / "ast.py").write_text("code")
    assert list(read_builtin(tmp_path)) == [Document("code", "library")]
