"""Models as files: the same predictions after, and nothing made or run that nobody trusts."""

from __future__ import annotations

import importlib
import json
import pickle
import pkgutil
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from sparsemix import classic
from sparsemix.classic import (
    ClassifierGate,
    ConstantGate,
    EstimatorExperts,
    GaussianGate,
    HierarchicalMoEClassifier,
    HierarchicalMoERegressor,
    MoEClassifier,
    MoERegressor,
    SoftmaxGate,
    load,
    save,
)
from sparsemix.classic.persistence import HEADER, is_known

TREES = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, size=(80, 2))


MODELS = {
    "linear": MoERegressor(max_iter=5),
    "hard": MoERegressor(n_experts=3, max_iter=5, pooling="hard", random_state=np.random.RandomState(3)),
    "stacking": MoERegressor(max_iter=5, pooling="stacking"),
    "features": MoERegressor(max_iter=5, gating=SoftmaxGate(features=PolynomialFeatures(2))),
    "constant gate": MoERegressor(max_iter=5, gating=ConstantGate()),
    "gaussian gate": MoERegressor(max_iter=5, gating=GaussianGate()),
    "classifier gate": MoERegressor(max_iter=5, gating=ClassifierGate(LogisticRegression())),
    "tree": HierarchicalMoERegressor(max_iter=5),
    "ridge": MoERegressor(EstimatorExperts(Ridge()), max_iter=3),
    "several": MoERegressor(EstimatorExperts([Ridge(), make_pipeline(StandardScaler(), Ridge())]), max_iter=3),
    "process": MoERegressor(
        EstimatorExperts(GaussianProcessRegressor(RBF() + WhiteKernel(), optimizer=None)), max_iter=2
    ),
    "in a pipeline": make_pipeline(StandardScaler(), MoERegressor(max_iter=5)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_predicts_the_same_bits(name: str, X: np.ndarray, tmp_path: Path) -> None:
    model = MODELS[name].fit(X, np.abs(X[:, 0]) + X[:, 1])
    save(model, tmp_path / "model.skops")
    again = load(tmp_path / "model.skops")
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    if isinstance(model, MoERegressor):
        np.testing.assert_array_equal(again.predict_quantiles(X), model.predict_quantiles(X))


@pytest.mark.parametrize("estimator", [MoEClassifier, HierarchicalMoEClassifier])
def test_classes_come_back(estimator, X: np.ndarray, tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=["width", "height"])
    model = estimator(max_iter=5).fit(frame, np.where(X[:, 0] * X[:, 1] > 0, "same", "other"))
    save(model, tmp_path / "model.skops")
    again = load(tmp_path / "model.skops")
    np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))
    assert list(again.feature_names_in_) == ["width", "height"]


def test_types_that_skops_does_not_call_safe_are_named(X: np.ndarray, tmp_path: Path) -> None:
    model = MoERegressor(EstimatorExperts(HistGradientBoostingRegressor(max_iter=2)), max_iter=2).fit(X, X[:, 0])
    save(model, tmp_path / "model.skops")
    with pytest.raises(ValueError, match=rf"must hold trusted types only, got {TREES}; .* trusted=\['{TREES}'\]"):
        load(tmp_path / "model.skops")
    trees = sys.modules[TREES.rpartition(".")[0]].TreePredictor
    for trusted in ([TREES], [trees]):
        np.testing.assert_array_equal(load(tmp_path / "model.skops", trusted).predict(X), model.predict(X))


class Trap(BaseEstimator):
    """What would be noticed if it were made."""

    sprung = False

    def __setstate__(self, state) -> None:
        type(self).sprung = True

    def __reduce__(self):
        return exec, ("import test_persistence",)


def test_nothing_that_is_not_trusted_is_made(X: np.ndarray, tmp_path: Path) -> None:
    model = MoERegressor(max_iter=2).fit(X, X[:, 0])
    model.random_state = Trap()
    save(model, tmp_path / "model.skops")
    with pytest.raises(ValueError, match=r"must hold trusted types only, got .*\.Trap; if you trust"):
        load(tmp_path / "model.skops")
    assert not Trap.sprung


@pytest.mark.parametrize("loader", ["FunctionNode", "ObjectNode", "ConstructorFromReduceNode", "TypeNode"])
@pytest.mark.parametrize(
    "name", ["os.system", "sparsemix.classic.persistence.save", "sparsemix.classic.display.style.require"]
)
def test_a_forged_file_names_no_function(name: str, loader: str, tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    save({"key": 1}, path)
    module, _, function = name.rpartition(".")
    content = {
        "__class__": "str",
        "__module__": "builtins",
        "__loader__": "JsonNode",
        "content": '["true"]',
        "is_json": True,
    }
    forged = {"__class__": function, "__module__": module, "__loader__": loader, "content": content, "attrs": content}
    if loader == "FunctionNode":
        forged["content"] = {"module_path": module, "function": function}
    rewrite(path, "schema.json", {"protocol": 2, "_skops_version": "0", **forged})
    with pytest.raises(ValueError, match=f"must hold trusted types only, got .*{name}"):
        load(path)


def rewrite(path: Path, entry: str, value: object) -> None:
    with ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries[entry] = json.dumps(value).encode()
    with ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def test_of_ours_only_classes_of_values_are_known() -> None:
    known = {
        "parts.Table",
        "numeric.multinomial.Logits",
        "estimators.regression.MoERegressor",
        "gates.softmax.SoftmaxGate",
        "predictive.stacking.Stack",
    }
    assert all(is_known(f"sparsemix.classic.{name}") for name in known)
    assert not any(
        is_known(f"sparsemix.classic.{name}")
        for name in ("parts.np", "parts.BaseEstimator", "parts.nothing", "no.Such")
    )
    assert not is_known("sklearn.gaussian_process.kernels.clone")
    assert not is_known("os.system")
    assert not is_known("load")


def test_every_part_of_ours_is_known() -> None:
    walk = pkgutil.walk_packages(classic.__path__, "sparsemix.classic.")
    modules = [importlib.import_module(info.name) for info in walk]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    parts = {kind for kind in found if issubclass(kind, BaseEstimator) and kind.__module__.startswith("sparsemix.")}
    assert parts > {MoEClassifier, HierarchicalMoERegressor, EstimatorExperts, SoftmaxGate}
    assert all(is_known(f"{part.__module__}.{part.__qualname__}") for part in parts)


def test_a_plain_skops_file_can_be_read_from_ours(X: np.ndarray, tmp_path: Path) -> None:
    model = MoERegressor(max_iter=2).fit(X, X[:, 0])
    save(model, tmp_path / "model.skops")
    trusted = skops.io.get_untrusted_types(file=tmp_path / "model.skops")
    np.testing.assert_array_equal(skops.io.load(tmp_path / "model.skops", trusted).predict(X), model.predict(X))


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    save([1], tmp_path / "model.skops")
    rewrite(tmp_path / "model.skops", HEADER, {"format": 2})
    with pytest.raises(ValueError, match=r"must be of format 1 or before, got 2; update sparsemix"):
        load(tmp_path / "model.skops")


def damages(whole: bytes) -> dict[str, bytes]:
    middle = whole.index(b"schema.json") + 200
    return {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "a byte changed": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "a pickle": pickle.dumps([1]),
    }


@pytest.mark.parametrize("damage", ["empty", "cut", "a byte changed", "a pickle"])
def test_a_damaged_file_is_refused_in_a_line(damage: str, X: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    save(MoERegressor(max_iter=2).fit(X, X[:, 0]), path)
    path.write_bytes(damages(path.read_bytes())[damage])
    with pytest.raises(ValueError, match=r"^\S+: must be a whole file written by sparsemix.classic.save, got [^\n]+$"):
        load(path)


def test_a_file_of_skops_alone_is_refused(tmp_path: Path) -> None:
    skops.io.dump([1], tmp_path / "model.skops")
    with pytest.raises(ValueError, match=r"written by sparsemix\.classic\.save"):
        load(tmp_path / "model.skops")


def test_a_failed_save_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    save({"value": 1}, path)
    with pytest.raises(TypeError, match="cannot pickle 'generator'"):
        save({"value": (number for number in range(3))}, path)
    assert load(path) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]
