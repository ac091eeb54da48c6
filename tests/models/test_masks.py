"""Which keys a query sees, against the rule written out for each pair."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemix.models.masks import attention_mask

CPU = torch.device("cpu")


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(0, 5),
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(1, 9),
    st.integers(0, 99),
)
def test_mask_is_the_rule(num_queries, num_before, documents, padding, window, seed):
    generator = torch.Generator().manual_seed(seed)
    num_before = 0 if documents else num_before
    num_keys = num_before + num_queries
    document_BS = torch.randint(2, (2, num_keys), generator=generator) if documents else None
    valid_BS = torch.rand(2, num_keys, generator=generator) < 0.6 if padding else None
    mask = attention_mask(num_queries, num_keys, CPU, document_BS, valid_BS, window)
    for row in range(2):
        for query in range(num_queries):
            own = num_before + query
            for key in range(num_keys):
                expected = key <= own and (window is None or own - key < window)
                if document_BS is not None:
                    expected &= bool(document_BS[row, own] == document_BS[row, key])
                if valid_BS is not None:
                    expected &= bool(valid_BS[row, key]) or key == own
                assert sees(mask, row, query, key) == expected


def sees(mask, row, query, key):
    if mask.allowed is None:
        return key <= query if mask.causal else True
    assert not mask.causal
    return bool(mask.allowed[row if len(mask.allowed) > 1 else 0, 0, query, key])


def test_the_common_case_builds_no_mask():
    assert attention_mask(5, 5, CPU) == (None, True)
    assert attention_mask(1, 5, CPU) == (None, False)
