import json
import math

import pytest

from sparsemix.runs import MetricsWriter, RunError, read_metrics


def written(path, steps, start=0):
    writer = MetricsWriter(path, start)
    for step in steps:
        writer.write(step=step, loss=step / 7)
    writer.close()
    return path


def test_one_object_a_line(tmp_path):
    path = written(tmp_path / "m.jsonl", [1, 2, 3])
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": n, "loss": n / 7} for n in (1, 2, 3)] == read_metrics(path)


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path):
    writer = MetricsWriter(tmp_path / "m.jsonl", 0)
    writer.write(step=1)
    assert read_metrics(tmp_path / "m.jsonl") == [{"step": 1}]
    writer.sync()
    writer.close()


@pytest.mark.parametrize("tail", ["", '{"step": 4, "lo', "\0\0\0\0\n", "\n", '{"step": 4}'])
def test_resuming_cuts_off_what_is_done_again(tmp_path, tail):
    path = written(tmp_path / "m.jsonl", [1, 2, 3])
    kept = path.read_text().splitlines()[:2]
    with path.open("a") as file:
        file.write(tail)
    written(path, [3], start=2)
    assert path.read_text().splitlines() == [*kept, json.dumps({"step": 3, "loss": 3 / 7})]


def test_numbers_that_json_has_not_become_null(tmp_path):
    writer = MetricsWriter(tmp_path / "m.jsonl", 0)
    writer.write(step=1, loss=math.nan, nested={"x": math.inf, "y": 1.5})
    writer.close()
    assert read_metrics(tmp_path / "m.jsonl") == [{"step": 1, "loss": None, "nested": {"x": None, "y": 1.5}}]


def test_no_file_has_no_metrics(tmp_path):
    assert read_metrics(tmp_path / "none") == []


def test_a_disk_that_is_full_is_one_line(tmp_path):
    writer = MetricsWriter(tmp_path / "m.jsonl", 0)
    writer._file.close()
    writer._file = open("/dev/full", "w")  # noqa: SIM115, a device on which every write fails
    for act in (lambda: writer.write(step=1), writer.close):
        with pytest.raises(RunError, match=r"m.jsonl: could not be written, got No space left on device; free space"):
            act()
