"""Generation against recomputing everything at each token, and rows of a batch against each row alone."""

import pytest
import torch
from models.examples import random_tokens, small_decoder

from sparsemix.inference import generate, sample, token_probs
from sparsemix.models import DepthConfig

PROMPTS = [random_tokens(length, seed=length).tolist() for length in (3, 9, 1, 5)]


def without_cache(decoder, prompt, *, seed, max_new_tokens, **settings):
    decoder.eval()
    generator, made = torch.Generator().manual_seed(seed), []
    for _ in range(max_new_tokens):
        hidden_BSD = decoder(torch.tensor([prompt + made])).hidden_BSD
        probs_BV = token_probs(decoder.logits(hidden_BSD[:, -1]), **settings)
        made += sample(probs_BV, torch.rand(1, generator=generator, dtype=torch.float64)).tolist()
    return made


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 1.3, "top_k": 20, "top_p": 0.9}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("depth", [None, DepthConfig()])
def test_a_batch_equals_each_prompt_recomputed_alone(settings, dtype, depth):
    decoder = small_decoder(dtype=dtype, depth=depth)
    together = generate(decoder, PROMPTS, max_new_tokens=12, seed=7, **settings)
    for row, prompt in enumerate(PROMPTS):
        alone = without_cache(decoder, prompt, seed=7 + row, max_new_tokens=12, **settings)
        assert together[row] == alone
        assert len(set(alone)) > 1


def test_a_row_depends_on_its_own_seed_only():
    decoder = small_decoder()
    together = generate(decoder, PROMPTS, max_new_tokens=8, seed=[5, 6, 7, 8])
    assert generate(decoder, PROMPTS[1:3], max_new_tokens=8, seed=[6, 7]) == together[1:3]
    assert generate(decoder, PROMPTS, max_new_tokens=8, seed=5) == together
    same = generate(decoder, [PROMPTS[0]] * 2, max_new_tokens=8, seed=5)
    assert same[0] == together[0] != same[1]


def test_the_global_random_state_is_neither_read_nor_moved():
    decoder = small_decoder()
    torch.manual_seed(1)
    first, state = generate(decoder, PROMPTS, max_new_tokens=5), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert generate(decoder, PROMPTS, max_new_tokens=5) == first


def test_a_stop_token_ends_its_row_and_no_other():
    decoder = small_decoder()
    free = generate(decoder, PROMPTS, max_new_tokens=12, seed=3)
    stop = free[1][4]
    stopped = generate(decoder, PROMPTS, max_new_tokens=12, seed=3, stop_ids=[stop])
    for row, tokens in enumerate(free):
        assert stopped[row] == (tokens[: tokens.index(stop)] if stop in tokens else tokens)


def test_on_token_sees_each_token_and_can_end_a_row():
    seen = [[] for _ in PROMPTS]

    def watch(row, token):
        seen[row].append(token)
        return len(seen[row]) == row + 1

    made = generate(small_decoder(), PROMPTS, max_new_tokens=6, on_token=watch)
    assert made == seen
    assert [len(tokens) for tokens in made] == [1, 2, 3, 4]


def test_each_submodule_gets_its_mode_back():
    decoder = small_decoder()
    decoder.train()
    decoder.blocks[1].eval()
    modes = []
    decoder.blocks[0].register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    generate(decoder, PROMPTS, max_new_tokens=2)
    assert modes == [False, False]
    assert decoder.training
    assert decoder.blocks[0].attention.training
    assert not decoder.blocks[1].training
    with pytest.raises(IndexError):
        generate(decoder, [[999]], max_new_tokens=2)
    assert decoder.training


def test_nothing_to_do():
    decoder = small_decoder()
    assert generate(decoder, [], max_new_tokens=3) == []
    assert generate(decoder, [[1], [2, 3]], max_new_tokens=0) == [[], []]


def test_the_context_can_be_filled_to_the_last_token():
    decoder = small_decoder(context=8)
    assert len(generate(decoder, [[1, 2, 3], [4]], max_new_tokens=5)[0]) == 5


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ([[1], [2] * 5], {}, r"prompts\[1\]: with the new tokens must fit in context=8, got 5 tokens and "),
        ([[1], []], {}, r"prompts\[1\]: must have at least one token, got none"),
        ([[1]], {"temperature": -0.5}, "temperature: must be at least 0, got -0.5"),
        ([[1]], {"max_new_tokens": -1}, "max_new_tokens: must be at least 0, got -1"),
        ([[1]], {"seed": [1, 2]}, "seed: must be one number, or one for each of 1 rows, got 2"),
    ],
)
def test_refuses(prompts, settings, message):
    with pytest.raises(ValueError, match=message):
        generate(small_decoder(context=8), prompts, **({"max_new_tokens": 4} | settings))
