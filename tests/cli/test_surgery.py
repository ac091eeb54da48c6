"""`sparsemix surgery`: a run is edited, measured and written; whatever is refused leaves nothing behind."""

import json
from pathlib import Path

import pytest

from sparsemix.cli import surgery
from sparsemix.interop import open_model
from sparsemix.surgery import Theory


@pytest.fixture
def edit(sparsemix, trained, trained_once):
    """Of the run, measured on the text that it was trained on."""

    def call(*args, out="out"):
        text = trained_once.text
        return sparsemix("surgery", args[0], "run", *args[1:], "--out", out, "--text", text, "--tokens", "64")

    return call


def test_what_it_did_is_printed_and_lies_beside_the_model(edit):
    answer = edit("split")
    assert answer.code == 0, answer.err
    assert "exact: the shards" in " ".join(answer.out.split())
    assert "bits per byte" in answer.out
    assert open_model(Path("out")).config.moe.num_experts == 8
    (record,) = json.loads(Path("out/surgery.json").read_text())
    assert (record["verb"], record["settings"], record["exact"]) == ("split", {"num_shards": 2}, True)


def test_json_says_all_of_it(edit):
    found = json.loads(edit("drop-layer-experts", "--count", "1", "--json").out)
    assert found["change"]["max_abs_logit"] > 0
    assert found["decisions"]["dropped"] in ([0], [1])
    assert (found["family"], found["exact"]) == ("sparsemix", False)


def test_edits_add_up(edit, sparsemix, trained_once):
    edit("grow", "--num-experts", "6")
    again = sparsemix("surgery", "split", "out", "--out", "further", "--text", trained_once.text, "--tokens", "64")
    assert again.code == 0, again.err
    assert [one["verb"] for one in json.loads(Path("further/surgery.json").read_text())] == ["grow", "split"]
    assert open_model(Path("further")).facts["steps"] == 6


def test_settings_are_flags_parts_of_another_kind_too(edit):
    assert edit("prune", "--keep", "3", "--by.type", "frequency").code == 0
    assert open_model(Path("out")).config.moe.num_experts == 3
    assert edit("prune", "--by.type", "naee", "--by.search", "greedy", out="half").code == 0
    assert open_model(Path("half")).config.moe.num_experts == 2


def test_an_edit_that_is_not_as_exact_as_theory_says_writes_nothing(edit, monkeypatch, no_traceback_of):
    def mistaken(models, settings, text):
        return honest.apply(models, settings, text)._replace(theory=Theory(True, "of a mistake"))

    honest = surgery.VERBS["grow"]
    monkeypatch.setitem(surgery.VERBS, "grow", honest._replace(apply=mistaken))
    answer = edit("grow")
    assert answer.code == 2
    no_traceback_of(answer, "surgery: must keep logits within 1e-05")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["upcycle"], "model: must be dense"),
        (["split", "--num-shards", "3"], "num_shards: must divide"),
        (["prune", "--keep", "many"], "--keep: must be "),
        (["merge-dense"], "models: must be at least two"),
        (["melt"], "surgery: must be one of upcycle"),
        (["split", "elsewhere"], "PATH: must be one folder for split, got 2"),
        (["grow", "--noise", "-1"], "GrowConfig: noise: .*greater than or equal to 0"),
    ],
)
def test_refuses_in_one_line_and_leaves_nothing(edit, args, complaint, no_traceback_of):
    answer = edit(*args)
    assert answer.code == 2
    no_traceback_of(answer, complaint)
    assert not Path("out").exists()


def test_a_folder_with_other_things_stays_as_it_is(edit, no_traceback_of):
    Path("out").mkdir()
    Path("out/notes").write_text("mine")
    no_traceback_of(edit("split"), "out: must be a new or an empty folder")
    assert [path.name for path in Path("out").iterdir()] == ["notes"]


@pytest.mark.parametrize("args", [[], ["--help"], ["prune", "--by.type", "naee", "--help"], ["upcycle", "--help"]])
def test_help(sparsemix, args):
    answer = sparsemix("surgery", *args)
    assert answer.code == 0
    assert "PATH..." in answer.out
