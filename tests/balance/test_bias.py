"""How a selection bias follows the load, as pure functions."""

import pytest
import torch
from cases import numbers, same
from hypothesis import given
from hypothesis import strategies as st
from references import updates

from sparsemix import bias_step
from sparsemix.balance import proportional_bias_step

LOADS = st.lists(st.integers(0, 1000), min_size=1, max_size=9)


@given(LOADS)
def test_by_sign_it_is_its_reference(load):
    bias_E = numbers(0, len(load))
    same(bias_step(bias_E, torch.tensor(load), 0.01), updates.bias_by_sign(bias_E, load, 0.01))


@given(LOADS.filter(any), st.sampled_from([torch.int64, torch.float64]))
def test_in_proportion_it_is_its_reference_in_units_of_the_mean_load(load, dtype):
    bias_E, mean = numbers(0, len(load)), sum(load) / len(load)
    stepped = proportional_bias_step(bias_E, torch.tensor(load, dtype=dtype), 0.01)
    same(stepped, updates.bias_by_violation(bias_E, load, 0.01 / mean))


def test_the_overloaded_falls_the_idle_rises_and_the_rest_stays():
    bias_E, load_E = torch.zeros(4), torch.tensor([9, 5, 5, 1])
    assert bias_step(bias_E, load_E, 0.001).tolist() == pytest.approx([-0.001, 0, 0, 0.001])
    assert proportional_bias_step(bias_E, load_E, 0.01).tolist() == pytest.approx([-0.008, 0, 0, 0.008])
    assert bias_E.tolist() == [0] * 4  # pure


@pytest.mark.parametrize("step", [bias_step, proportional_bias_step])
@pytest.mark.parametrize("count", [0, 7, 5_000_001, 2**40 + 1])
def test_a_balanced_load_moves_nothing_however_large_the_batch(step, count):
    bias_E = torch.randn(7)
    same(step(bias_E, torch.full((7,), count), 0.001), bias_E, tolerance=1e-9)


def test_a_difference_of_one_is_seen_in_a_large_batch():
    load_E = torch.full((4,), 2**30)
    load_E[0] += 1
    assert bias_step(torch.zeros(4), load_E, 1.0).tolist() == [-1, 1, 1, 1]


def test_the_proportional_step_does_not_depend_on_the_size_of_the_batch():
    bias_E, load_E = numbers(0, 4), torch.tensor([9, 5, 5, 1])
    same(proportional_bias_step(bias_E, load_E, 0.01), proportional_bias_step(bias_E, 1000 * load_E, 0.01))


@pytest.mark.parametrize("step", [bias_step, proportional_bias_step])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_keeps_the_dtype_and_takes_averaged_loads(step, dtype):
    stepped = step(torch.zeros(2, dtype=dtype), torch.tensor([1.5, 0.5]), 0.001)
    scale = 1 if step is bias_step else 0.5
    same(stepped, torch.tensor([-0.001, 0.001], dtype=dtype) * scale, tolerance=1e-9)
