"""Known models: the counts that their makers, or independent counters, arrive at."""

import pytest

from sparsemix.models.architectures import ARCHITECTURES, architecture
from sparsemix.models.counts import count_by_formula, count_by_tensors

EXACT = {
    "mixtral-8x7b": (46_702_792_704, 12_879_925_248),
    "olmoe-1b-7b": (6_919_161_856, 1_282_017_280),
    "gpt-oss-120b": (116_829_156_672, 5_132_849_472),
    "gpt-oss-20b": (20_914_757_184, 3_608_307_264),
}
BILLIONS = {
    "mixtral-8x22b": (140.630, 39.161),
    "qwen3-30b-a3b": (30.532, 3.353),
    "qwen3-235b-a22b": (235.09, 22.19),
    "deepseekmoe-16b": (16.376, 2.829),
    "deepseek-v2": (235.74, 21.38),
    "deepseek-v3": (671.03, 37.55),
    "granite-3.0-1b-a400m": (1.335, 0.429),
    "granite-3.0-3b-a800m": (3.299, 0.883),
    "qwen2-57b-a14b": (57.4, 14.2),
    "qwen1.5-moe-a2.7b": (14.3, 2.7),
    "grok-1": (315.7, None),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_counts(name):
    counts = architecture(name).counts()
    assert (counts.parameters_total, counts.parameters_active) == EXACT[name]


@pytest.mark.parametrize("name", BILLIONS)
def test_counts_in_billions(name):
    counts = architecture(name).counts()
    for seen, expected in zip((counts.parameters_total, counts.parameters_active), BILLIONS[name]):
        if expected is not None:
            digits = len(str(expected).partition(".")[2])
            assert round(seen / 1e9, digits) == expected


def test_every_architecture_has_an_expectation():
    assert EXACT.keys() | BILLIONS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_either_builds_with_these_counts_or_says_what_is_missing(name):
    known = architecture(name)
    assert (known.decoder is None) == bool(known.missing)
    if known.decoder is not None:
        counts = known.shape.counts(known.context)  # both embeddings are active
        assert counts == count_by_formula(known.decoder) == count_by_tensors(known.decoder)


def test_deepseek_v3_without_the_input_embedding():
    counts = architecture("deepseek-v3").counts()
    assert round((counts.parameters_active - counts.parameters_embedding) / 1e9, 1) == 36.6


def test_context_changes_flops_only_and_windows_cap_them():
    short, long = (architecture("gpt-oss-20b").counts(context) for context in (128, 129))
    assert long.flops_per_token - short.flops_per_token == 2 * 12 * 64 * 128  # the twelve layers without a window
    assert long.parameters_total == short.parameters_total


def test_unknown_name():
    with pytest.raises(
        ValueError, match="arch: must be a known architecture, got 'mixtral'; choose among mixtral-8x7b"
    ):
        architecture("mixtral")
