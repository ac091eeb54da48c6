"""A text and a run on it, for the tests that train."""

import pytest
from train.examples import tiny_config, write_text


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path / "text")


@pytest.fixture
def config(text):
    return tiny_config(text)
