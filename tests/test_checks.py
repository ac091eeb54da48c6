"""The one-line form of errors."""

import re

import pytest
import torch

from sparsemix.checks import EXTRAS, check, check_dim, require


def test_check_says_name_rule_value_and_remedy():
    check(True, "k", "must be positive", 0, "raise it")
    with pytest.raises(ValueError, match=r"^k: must be positive, got 0; raise it$"):
        check(False, "k", "must be positive", 0, "raise it")
    with pytest.raises(ValueError, match=r"^k: must be positive, got 0$"):
        check(False, "k", "must be positive", 0)


def test_check_dim():
    check_dim("x", torch.zeros(2, 3), -1, 3)
    with pytest.raises(ValueError, match=re.escape("x: size of axis -1 must be 4, got shape (2, 3); pass")):
        check_dim("x", torch.zeros(2, 3), -1, 4)
    with pytest.raises(ValueError, match=re.escape("got shape ()")):
        check_dim("x", torch.zeros(()), -1, 4)


def test_require_imports_or_names_the_extra(monkeypatch):
    monkeypatch.setitem(EXTRAS, "not_there", "plot")
    monkeypatch.setitem(EXTRAS, "json", "data")
    assert require("json", "to read").__name__ == "json"
    assert require("json.decoder", "to read").__name__ == "json.decoder"
    with pytest.raises(
        ImportError, match=r"^not_there.at_all: needed to draw, not installed; run: pip install 'sparsemix\[plot\]'$"
    ):
        require("not_there.at_all", "to draw")
