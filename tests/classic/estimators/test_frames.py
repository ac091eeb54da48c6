"""Data frames: names kept, columns of all types handed to the experts that take them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from sparsemix.classic import MoEClassifier, MoERegressor
from tests.classic.tables import classes, regimes


def numbers(library) -> object:
    """Three columns of numbers."""
    X = regimes()[0]
    return library.DataFrame({name: X[:, column] for column, name in enumerate(("a", "b", "c"))})


def mixed() -> tuple[pd.DataFrame, np.ndarray]:
    """The regime as a category, and a column with values missing."""
    X, y = regimes()
    frame = pd.DataFrame({"regime": np.where(X[:, 0] > 0, "up", "down"), "b": X[:, 1], "c": X[:, 2]})
    frame.loc[::9, "c"] = np.nan
    return frame, y


def by_name() -> Pipeline:
    """Ridge on columns chosen by name."""
    codes = OneHotEncoder(handle_unknown="ignore")  # an expert need not see all categories
    return make_pipeline(make_column_transformer((codes, ["regime"]), (SimpleImputer(), ["b", "c"])), Ridge())


@pytest.mark.parametrize("library", [pd, pl])
def test_names_are_kept_and_checked(library):
    frame, (X, y) = numbers(library), regimes()
    model = MoERegressor().fit(frame, y)
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    np.testing.assert_allclose(model.predict(frame), MoERegressor().fit(X, y).predict(X), rtol=1e-9)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["b", "a", "c"]])


@pytest.mark.parametrize(("library", "kind"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)])
def test_transform_gives_the_frame_asked_for(library, kind):
    X, y = classes()
    out = MoEClassifier().set_output(transform=library).fit(X, y).transform(X)
    assert isinstance(out, kind)
    assert list(out.columns) == ["moeclassifier0", "moeclassifier1"]


def test_experts_choose_columns_by_name_in_every_library():
    frame, y = mixed()
    model = MoERegressor(by_name(), random_state=0).fit(frame, y)
    assert list(model.feature_names_in_) == ["regime", "b", "c"]
    assert model.score(frame, y) > 0.95
    other = pl.from_pandas(frame)
    same = MoERegressor(by_name(), random_state=0).fit(other, y)
    np.testing.assert_allclose(same.predict(other), model.predict(frame), rtol=1e-6)
    assert model.responsibilities(frame, y).shape == (300, 2)
    assert model.predict_quantiles(frame, [0.1, 0.9]).shape == (300, 2)


def test_categories_and_missing_values_reach_experts_that_take_them():
    frame, y = mixed()
    frame["regime"] = frame["regime"].astype("category")
    trees = HistGradientBoostingRegressor(max_iter=30, random_state=0)
    assert MoERegressor(trees, random_state=0).fit(frame, y).score(frame, y) > 0.9


def test_hard_choices_of_rows_work_on_frames():
    frame, y = mixed()
    model = MoERegressor(by_name(), pooling="hard", random_state=0).fit(frame, y)
    assert model.predict(frame.iloc[:7]).shape == (7,)


def test_frames_need_the_columns_of_the_fit():
    frame, y = mixed()
    model = MoERegressor(by_name(), random_state=0).fit(frame, y)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["b", "c"]])


def test_built_in_experts_take_numbers_only():
    frame, y = mixed()
    with pytest.raises(ValueError, match="Input X contains NaN"):
        MoERegressor().fit(frame[["b", "c"]], y)


@pytest.mark.parametrize("library", [pd, pl])
@pytest.mark.parametrize("kind", [str, "category"])
def test_built_in_experts_name_the_column_that_holds_no_numbers(library, kind):
    (X, y), frame = regimes(), numbers(pd)
    mixed = frame.assign(b=pd.Series(np.where(X[:, 0] > 0, "up", "down")).astype(kind))
    made = [table if library is pd else pl.from_pandas(table) for table in (frame, mixed)]
    model = MoERegressor(max_iter=2).fit(made[0], y)
    line = r"\AX: must hold numbers for these experts, got column 'b' of [^\n]*; pass an expert .*OneHotEncoder[^\n]*\Z"
    for ask in (
        lambda: MoERegressor().fit(made[1], y),
        lambda: model.predict(made[1]),
        lambda: model.score(made[1], y),
    ):
        with pytest.raises(ValueError, match=line):
            ask()


@pytest.mark.parametrize("library", [pd, pl])
def test_built_in_experts_refuse_times_by_name(library):
    y = regimes()[1]
    frame = numbers(pd).assign(when=pd.date_range("2020-01-01", periods=300))
    with pytest.raises(ValueError, match=r"X: times are no numbers, got column 'when' of .*; convert it"):
        MoERegressor().fit(frame if library is pd else pl.from_pandas(frame), y)


def test_numbers_of_other_types_are_read():
    X, y = regimes()
    frame = pd.DataFrame({"a": X[:, 0].astype(object), "b": pd.Categorical(np.round(X[:, 1])), "c": X[:, 2] > 0})
    expected = MoERegressor(max_iter=5).fit(np.column_stack([X[:, 0], np.round(X[:, 1]), X[:, 2] > 0]), y)
    model = MoERegressor(max_iter=5).fit(frame, y)
    np.testing.assert_allclose(model.predict(frame), expected.predict(frame.to_numpy(float)))


def test_targets_and_weights_may_be_columns():
    X, y = regimes()
    weight_N = np.arange(300) % 3
    model = MoERegressor().fit(numbers(pd), pd.Series(y, index=range(1, 301)), pd.Series(weight_N))
    same = MoERegressor().fit(X, y, weight_N)
    np.testing.assert_allclose(model.predict(numbers(pd)), same.predict(X), rtol=1e-9)
    assert list(MoEClassifier().fit(X, pd.Series(classes()[1])).classes_) == ["no", "yes"]


@pytest.mark.parametrize("library", [pd, pl])
def test_infinity_in_a_frame_is_refused_by_name(library):
    frame, (_, y) = numbers(pd), regimes()
    infinite = frame.replace({"c": {frame["c"][5]: np.inf}})
    made = frame if library is pd else pl.from_pandas(frame)
    model = MoERegressor(HistGradientBoostingRegressor(max_iter=3), max_iter=2).fit(made, y)
    infinite = infinite if library is pd else pl.from_pandas(infinite)
    for ask in (model.predict, lambda X: model.fit(X, y)):
        with pytest.raises(ValueError, match="X: must be finite or missing, got infinity in column 'c'"):
            ask(infinite)
