"""Pictures: what is drawn is what the mixture says, of arrays, frames and sparse tables."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy

import matplotlib as mpl
import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

mpl.use("Agg")
from matplotlib import pyplot as plt

from sparsemix.classic import MoEClassifier, MoEDisplay, MoERegressor, plot_gate, plot_partition, plot_responsibilities
from sparsemix.classic.display.asked import weights
from sparsemix.classic.display.bands import plateau
from sparsemix.classic.display.grid import chosen, stretches, swept
from sparsemix.classic.display.regions import deepest
from sparsemix.classic.display.shares import own_first
from sparsemix.classic.display.style import OKABE_ITO, expert_colours


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    return np.random.default_rng(0).uniform(-2, 2, size=(150, 3))


@pytest.fixture(scope="module")
def y(X: np.ndarray) -> np.ndarray:
    return np.where(X[:, 0] > 0, 2 * X[:, 1], 5 - X[:, 1])


@pytest.fixture(scope="module")
def model(X: np.ndarray, y: np.ndarray) -> MoERegressor:
    return MoERegressor(n_experts=2, max_iter=30).fit(X, y)


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_regions_are_the_gates(model: MoERegressor, X: np.ndarray, y: np.ndarray) -> None:
    display = MoEDisplay.from_estimator(model, X, y, grid_resolution=40)
    ax = display.ax_
    assert display.figure_ is ax.figure
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x0", "x1")
    assert texts(ax) == ["expert 0", "expert 1"]
    (image,) = ax.images
    left, right, bottom, top = image.get_extent()
    ground = image.get_array()
    assert ground.shape == (40, 40, 3)
    for row, column in ((0, 0), (39, 10), (20, 39)):
        place = [[np.linspace(left, right, 40)[column], np.linspace(bottom, top, 40)[row], np.median(X[:, 2])]]
        expected = 0.6 + 0.4 * (model.gate(place) @ expert_colours(2))[0]
        np.testing.assert_allclose(ground[row, column], expected, atol=1e-9)
    (points,) = ax.collections[:1]
    np.testing.assert_array_equal(points.get_offsets(), X[:, :2])
    owner_N = model.responsibilities(X, y).argmax(axis=1)
    np.testing.assert_allclose(points.get_facecolors()[:, :3], expert_colours(2)[owner_N])


def test_one_column_shows_what_each_expert_says(model: MoERegressor, X: np.ndarray, y: np.ndarray) -> None:
    ax = plot_partition(model, X, pd.Series(y, name="price"), features=0, grid_resolution=30)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x0", "price")
    (mean,) = ax.lines
    grid = np.column_stack([mean.get_xdata(), np.full((30, 2), np.median(X[:, 1:], axis=0))])
    np.testing.assert_allclose(mean.get_ydata(), model.predict(grid))
    said_EG = [np.array(lines.get_segments())[:, 0, 1] for lines in ax.collections[1:]]
    np.testing.assert_allclose(said_EG, model.experts_.output(grid)[:-1, :, 0].T)
    assert sorted(texts(ax)) == ["expert 0", "expert 1"]


@pytest.mark.parametrize("pooling", ["soft", "hard", 2, "stacking"])
def test_partitions_show_the_weights_that_predict(X: np.ndarray, y: np.ndarray, pooling) -> None:
    model = MoERegressor(n_experts=3, max_iter=30, pooling=pooling).fit(X, y)
    weight_NE = model.predict_dist(X).weight_NE
    np.testing.assert_allclose(weights(model, X), weight_NE, rtol=1e-9, atol=1e-12)
    points = plot_partition(model, X).collections[0]
    np.testing.assert_allclose(points.get_facecolors()[:, :3], expert_colours(3)[weight_NE.argmax(axis=1)])
    curve = plot_partition(model, X, features=0, grid_resolution=30).lines[0]
    grid = np.column_stack([curve.get_xdata(), np.full((30, 2), np.median(X[:, 1:], axis=0))])
    np.testing.assert_allclose(curve.get_ydata(), model.predict(grid))


def test_weights_of_a_stack_need_one(model: MoERegressor, X: np.ndarray) -> None:
    later = copy(model).set_params(pooling="stacking")
    with pytest.raises(ValueError, match="pooling: must be set before fit to be 'stacking'"):
        plot_partition(later, X)


def test_experts_that_share_a_column_are_named_at_their_curves() -> None:
    x = np.linspace(0, 1, 100)[:, None]
    y = np.where(np.arange(100) % 2, 1 + x[:, 0], 4 - x[:, 0])
    model = MoERegressor(n_experts=2, max_iter=30).fit(x, y)
    ax = plot_partition(model, x, y, grid_resolution=20)
    assert texts(ax) == ["expert 0", "expert 1"]
    for expert, text in enumerate(ax.texts):
        right = ax.lines[0].get_xdata()[-1]
        np.testing.assert_allclose(
            text.get_position(), (right, model.experts_.output(np.array([[right]]))[0, expert, 0])
        )


def test_classes_have_marks_and_probabilities(X: np.ndarray) -> None:
    label_N = np.where(X[:, 0] * X[:, 1] > 0, "same", "other")
    model = MoEClassifier(n_experts=2, max_iter=20).fit(X, label_N)
    legend = plot_partition(model, X, label_N, grid_resolution=10).get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["other", "same"]
    ax = plot_partition(model, X, label_N, features=1, grid_resolution=10)
    assert ax.get_ylabel() == "p(y = same | x)"
    grid = np.column_stack([np.full(10, np.median(X[:, 0])), ax.lines[0].get_xdata(), np.full(10, np.median(X[:, 2]))])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), model.predict_proba(grid)[:, 1])


def test_bands_of_the_gate_fill_the_height(model: MoERegressor, X: np.ndarray) -> None:
    ax = plot_gate(model, X, grid_resolution=20)
    first, last = (line.get_ydata() for line in ax.lines)
    grid = np.column_stack([ax.lines[0].get_xdata(), np.full((20, 2), np.median(X[:, 1:], axis=0))])
    np.testing.assert_allclose(first, model.gate(grid)[:, 0])
    np.testing.assert_allclose(last, 1)
    assert texts(ax) == ["expert 0", "expert 1"]


def test_shares_of_rows(model: MoERegressor, X: np.ndarray, y: np.ndarray) -> None:
    ax = plot_responsibilities(model, X, y)
    counts = np.bincount(model.responsibilities(X, y).argmax(axis=1))
    assert texts(ax) == [f"{e}\n{count / 150:.0%}" for e, count in enumerate(counts)]
    heights = sum(patch.get_data().values - patch.get_data().baseline for patch in ax.patches)
    np.testing.assert_allclose(heights, 1)


def test_many_rows_are_averaged(model: MoERegressor, X: np.ndarray, y: np.ndarray) -> None:
    share_NE = model.responsibilities(np.tile(X, (10, 1)), np.tile(y, 10))
    ax = plot_responsibilities(model, np.tile(X, (10, 1)), np.tile(y, 10))
    (values, edges, _), *_ = (patch.get_data() for patch in ax.patches)
    assert len(values) == 400
    np.testing.assert_allclose(values @ np.diff(edges), share_NE[:, 0].sum())


@pytest.mark.parametrize("response", ["partition", "gate", "responsibilities"])
def test_it_is_drawn_where_it_is_asked(model: MoERegressor, X: np.ndarray, y: np.ndarray, response: str) -> None:
    figure, ax = plt.subplots()
    display = MoEDisplay.from_estimator(model, X, y, response=response, grid_resolution=5, ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is figure
    assert display.plot() is display
    assert display.ax_ is not ax, "drawn again on new axes"


FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame}


@pytest.mark.parametrize("library", FRAMES)
def test_frames_keep_names_and_types(library: str) -> None:
    frame = FRAMES[library](
        {"age": [30.0, 10.0, 20.0, 50.0, 40.0], "town": ["b", "a", "b", "c", "b"], "rooms": [1, 5, 2, 4, 3]}
    )
    grid = swept(frame, ("rooms",), 4)
    assert type(grid.X) is type(frame)
    assert list(grid.X.columns) == ["age", "town", "rooms"]
    assert grid.X["age"].to_list() == [30.0] * 4
    assert grid.X["town"].to_list() == ["b"] * 4
    np.testing.assert_allclose(grid.X["rooms"].to_list(), np.linspace(0.8, 5.2, 4))
    assert grid.names == ("rooms",)
    with pytest.raises(ValueError, match="features: must be columns of numbers, got town"):
        swept(frame, ("town",), 4)
    with pytest.raises(ValueError, match="features: must name columns of X, got 'weight'"):
        swept(frame, ("weight",), 4)


@pytest.mark.parametrize("library", FRAMES)
def test_pictures_of_frames(library: str, X: np.ndarray, y: np.ndarray) -> None:
    frame = FRAMES[library]({"width": X[:, 0], "height": X[:, 1], "depth": X[:, 2]})
    model = MoERegressor(max_iter=3).fit(frame, y)
    ax = plot_partition(model, frame, y, features=["height", "width"], grid_resolution=5)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("height", "width")
    assert plot_gate(model, frame, features="depth", grid_resolution=5).get_xlabel() == "depth"


@pytest.mark.parametrize("library", FRAMES)
def test_columns_of_numbers_are_shown_by_default(library: str, X: np.ndarray, y: np.ndarray) -> None:
    frame = FRAMES[library]({"width": X[:, 0], "town": ["a", "b", "c"] * 50, "depth": X[:, 2]})
    experts = make_pipeline(make_column_transformer((OneHotEncoder(), ["town"]), remainder="passthrough"), Ridge())
    model = MoERegressor(experts, max_iter=2, random_state=0).fit(frame, y)
    ax = plot_partition(model, frame, grid_resolution=5)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("width", "depth")
    assert plot_gate(model, frame[["width", "town", "depth"]], grid_resolution=5).get_xlabel() == "width"
    with pytest.raises(ValueError, match="features: must be columns of numbers, got town of"):
        plot_gate(model, frame, features="town")
    with pytest.raises(ValueError, match="features: must be columns of numbers, got an X without any"):
        chosen(frame[["town"]], None, 2)


def test_columns_may_be_given_in_any_way(X: np.ndarray) -> None:
    assert chosen(X, None, 2) == (0, 1)
    assert chosen(X[:, :1], None, 2) == (0,)
    assert chosen(X, 2, 1) == (2,)
    assert chosen(X, "x", 1) == ("x",)
    assert chosen(X, np.array([2, 0]), 2) == (2, 0)


@pytest.mark.parametrize("plot", [plot_partition, plot_gate, plot_responsibilities])
def test_only_fitted_mixtures_have_pictures(plot, X: np.ndarray, y: np.ndarray) -> None:
    line = r"\Aestimator: must be a mixture of experts, got Ridge; of a pipeline or a search, [^\n]*\Z"
    rest = (X, y) if plot is plot_responsibilities else (X,)
    with pytest.raises(ValueError, match=line):
        plot(Ridge().fit(X, y), *rest)
    with pytest.raises(NotFittedError):
        plot(MoERegressor(), *rest)


def test_grid_of_a_sparse_table_is_that_of_the_dense_one(X: np.ndarray) -> None:
    thin = np.where(X > 0.5, X, 0)
    dense, thinly = swept(thin, (2, 0), 6), swept(sparse.csr_matrix(thin), (2, 0), 6)
    assert sparse.issparse(thinly.X)
    np.testing.assert_allclose(thinly.X.toarray(), dense.X)


def test_grid_varies_the_first_column_fastest_and_keeps_the_kind_of_numbers() -> None:
    X = np.array([[0, 10, 7, np.nan], [1, 30, 9, 3], [1, 20, 8, 5]], dtype=np.float32)
    grid = swept(X, (0, 1), 2)
    assert grid.X.dtype == np.float32
    np.testing.assert_allclose(grid.X, [[-0.05, 9, 8, 4], [1.05, 9, 8, 4], [-0.05, 31, 8, 4], [1.05, 31, 8, 4]])
    np.testing.assert_allclose(grid.square(grid.X[:, 0])[0], grid.values[0])
    assert not grid.alone
    assert swept(X[:, :1], (0,), 3).alone


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"response": "gates"}, "response: must be one of partition, gate, responsibilities, got 'gates'"),
        ({"response": "responsibilities", "y": None}, "y: must be given for responsibilities"),
        ({"features": (0, 1, 2)}, r"features: must be 1\.\.2 columns for this picture"),
        ({"features": (0, 1), "response": "gate"}, r"features: must be 1\.\.1 columns for this picture"),
        ({"features": 3}, r"features: must be columns of X, 0\.\.2, got 3"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    model: MoERegressor, X: np.ndarray, y: np.ndarray, asked, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MoEDisplay.from_estimator(model, X, **({"y": y} | asked))


def test_colours_differ_for_any_number_of_experts() -> None:
    for n_experts in (1, len(OKABE_ITO), 8, 30):
        assert len(np.unique(expert_colours(n_experts), axis=0)) == n_experts


def test_places_for_labels() -> None:
    inside = np.zeros((9, 9), dtype=bool)
    inside[1:8, 2:9] = inside[0, 0] = True
    assert deepest(inside) == (4, 5)
    assert plateau(np.array([0.1, 0.9, 0.2, 0.88, 0.87, 0.9, 0.1])) == 4
    assert stretches(np.array([2, 2, 0, 1, 1])) == [(0, 2, 2), (2, 3, 0), (3, 5, 1)]


def test_rows_are_sorted_by_owner_and_sureness() -> None:
    sorted_NE = own_first(np.array([[0.4, 0.6], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]]))
    np.testing.assert_allclose(sorted_NE, [[0.9, 0.1], [0.6, 0.4], [0.1, 0.9], [0.4, 0.6]])
