"""Fitted models as files, without pickle: nothing in a file is run, and of classes only trusted ones are made."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from sklearn.base import BaseEstimator
from sklearn.gaussian_process.kernels import Kernel

from sparsemix.checks import check, require
from sparsemix.files import new_file

FORMAT = 1
"""Goes up when what is learned is kept in other attributes than before."""
HEADER = "sparsemix.json"


def save(model: Any, path: str | Path) -> None:
    """Write a fitted estimator, or a pipeline with one in it, by skops; `path` is the whole file or as it was before.

    Raises:
        skops.io.exceptions.UnsupportedTypeException: something in the model has no form but pickle.
    """
    skops = require("skops.io", "to save models")
    with new_file(Path(path)) as partial:
        skops.dump(model, partial)
        with ZipFile(partial, "a") as archive:
            archive.writestr(HEADER, json.dumps({"format": FORMAT}))


def load(path: str | Path, trusted: Iterable[str | type] = ()) -> Any:
    """The model that `save` wrote.

    Args:
        trusted: types beyond those of this library and those of numpy, scipy and scikit-learn that skops calls safe.
            A file may ask for any type that is named here: name none that does harm when it is made.

    Raises:
        ValueError: the file is damaged, is of a later format, or asks for other types.
    """
    skops = require("skops.io", "to load models")
    path = Path(path)
    check_readable(path)
    asked = skops.get_untrusted_types(file=path)
    named = {name if isinstance(name, str) else f"{name.__module__}.{name.__qualname__}" for name in trusted}
    strange = [name for name in asked if name not in named and not is_known(name)]
    remedy = f"if you trust the file and these types, load(path, trusted={strange})"
    check(not strange, str(path), "must hold trusted types only", ", ".join(strange), remedy)
    return skops.load(path, trusted=asked)


def check_readable(path: Path) -> None:
    """Raise `ValueError` unless the file is one of ours, undamaged and of a format that is known."""
    rule, remedy = "must be a whole file written by sparsemix.classic.save", "save the model again"
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()
            found = int(json.loads(archive.read(HEADER))["format"]) if damaged is None else FORMAT
    except (BadZipFile, KeyError, EOFError, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path}: {rule}, got {error}; {remedy}") from error
    check(damaged is None, str(path), rule, f"damaged {damaged}", remedy)
    check(found <= FORMAT, str(path), f"must be of format {FORMAT} or before", found, "update sparsemix")


def is_known(name: str) -> bool:
    """Whether it is a class that only holds values: a part, an estimator or a named tuple of ours, or a kernel of a
    Gaussian process. No module is imported for the question, and functions never count.
    """
    module, _, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(module), attribute, None)
    if not isinstance(found, type) or found.__module__ != module:
        return False
    ours = module.startswith("sparsemix.classic.") and issubclass(found, (BaseEstimator, tuple))
    return ours or (module == Kernel.__module__ and issubclass(found, Kernel))
