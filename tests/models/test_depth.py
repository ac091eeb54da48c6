"""Mixture of depths against a plain reference: who goes through, with what gradient, at what cost, and in sampling."""

import math

import pytest
import torch
from cases import gradients, same
from models.examples import RESIDUAL, random_tokens, small_config, small_decoder
from models.reference import best, predicted
from models.test_decoder import reference_logits
from pydantic import ValidationError

from sparsemix.config import from_json, to_json
from sparsemix.experts import GLUExpertsConfig
from sparsemix.models import DecoderConfig, DepthConfig
from sparsemix.models.depth import positive
from sparsemix.routing import load

HALF = DepthConfig(capacity=0.5, predictor_hidden=5)
BY_ROUTER = DepthConfig(capacity=0.5, predictor="router")
KINDS = [{}, {"dense_first": 4}, {"moe": None, "ffn": None}]


def deep_decoder(depth=HALF, **changes):
    """Four blocks, of which the second and the fourth have a depth; the first is dense."""
    return small_decoder(**({"num_layers": 4, "depth": depth} | changes))


def causal(s, t):
    return t <= s


def expect_reference(decoder, tokens_BS, choose):
    """The logits, and the gradients of all parameters that the logits depend on."""
    logits_BSV = decoder.logits(decoder(tokens_BS).hidden_BSD)
    positions = range(tokens_BS.shape[1])
    expected = torch.stack([reference_logits(decoder, row_S, causal, positions, choose) for row_S in tokens_BS])
    same(logits_BSV, expected, tolerance=1e-11)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=expected.dtype)
    parameters = [parameter for name, parameter in decoder.named_parameters() if "predictor" not in name]
    theirs = gradients((expected * direction).sum(), parameters)
    for our, their in zip(gradients((logits_BSV * direction).sum(), parameters), theirs, strict=True):
        same(our, their, "gradient", 1e-9)


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize(("capacity", "places"), [(0.125, 1), (0.3, 3), (1.0, 7)])
def test_training_lets_the_best_of_each_sequence_through(capacity, places, changes):
    decoder = deep_decoder(DepthConfig(capacity=capacity), **changes)
    expect_reference(decoder, random_tokens(2, 7), lambda x_SD, router: best(x_SD, router, places))


@pytest.mark.parametrize("depth", [HALF, BY_ROUTER])
@pytest.mark.parametrize("changes", KINDS)
def test_evaluation_lets_through_whom_the_predictor_names(depth, changes):
    decoder = deep_decoder(depth, **changes).eval()
    expect_reference(decoder, random_tokens(2, 7), predicted)
    counts = [len(routing.token_N) for routing in decoder(random_tokens(9, 7)).depth]
    assert all(0 < count < 9 * 7 for count in counts)


@pytest.mark.parametrize("training", [False, True])
def test_documents_see_only_themselves(training):
    decoder = deep_decoder().train(training)
    tokens_S, document_S = random_tokens(9), torch.tensor([0] * 4 + [1] * 5)
    position_S = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4])
    hidden_BSD = decoder(tokens_S[None], document_BS=document_S[None], position_BS=position_S[None]).hidden_BSD
    choose = (lambda x_SD, router: best(x_SD, router, 5)) if training else predicted
    expected = reference_logits(
        decoder, tokens_S, lambda s, t: t <= s and document_S[s] == document_S[t], position_S.tolist(), choose
    )
    same(decoder.logits(hidden_BSD[0]), expected)


def test_later_tokens_change_the_choice_in_training_only():
    tokens_BS = random_tokens(1, 8)
    changed_BS = tokens_BS.clone()
    changed_BS[:, 4:] = random_tokens(1, 4, seed=7)
    for training in (True, False):
        decoder = deep_decoder(dense_first=0).train(training)
        before, after = (decoder(tokens).depth[0].token_N for tokens in (tokens_BS, changed_BS))
        early, early_after = (token_N[token_N < 4].tolist() for token_N in (before, after))
        assert (early != early_after) == training


def test_everything_through_at_weight_1_is_the_plain_block():
    decoder, seen = deep_decoder(DepthConfig(capacity=1.0)), {}
    block = decoder.blocks[1]
    block.register_forward_pre_hook(lambda module, arguments: seen.update(x_BSD=arguments[0], tokens=arguments[1]))
    decoder(random_tokens(2, 6))
    x_BSD = torch.cat([torch.ones(2, 6, 1), seen["x_BSD"].detach()[..., 1:]], 2)
    with torch.no_grad():
        block.depth.router.weight_ED.copy_(torch.eye(1, 16))
    through = block(x_BSD, seen["tokens"])
    assert torch.equal(through.depth.weight_N, torch.ones(12, dtype=torch.float64))
    block.depth = None
    assert torch.equal(through.x_BSD, block(x_BSD, seen["tokens"]).x_BSD)


def test_the_routing_says_who_went_through():
    decoder = deep_decoder()
    output = decoder(random_tokens(2, 6))
    assert len(output.depth) == 2
    for routing in output.depth:
        assert routing.token_N.tolist() == sorted(routing.token_N.tolist())
        assert (routing.token_N < 6).sum() == 3
        assert load(routing, 1).tolist() == [6]
        assert torch.equal(routing.weight_N, routing.logits_TE[routing.token_N, 0])
        assert routing.load_TE.shape == (12, 1)
    inner = output.collected[0]  # of block 1, whose mixture sees the chosen tokens alone
    assert inner.info.position_T.tolist() == (output.depth[0].token_N % 6).tolist()
    assert len(inner.expert_N) == 6 * 2


def test_gradient_reaches_the_router_through_the_product_alone():
    decoder = deep_decoder()
    block, tokens_BS = decoder.blocks[1], random_tokens(2, 6)
    seen = {}
    block.depth.register_forward_hook(lambda module, arguments, chosen: seen.update(x_BSD=arguments[0], chosen=chosen))
    block.register_forward_hook(lambda module, arguments, output: seen.update(out=output.x_BSD))
    output = decoder(tokens_BS)
    (grad_out,) = torch.autograd.grad(output.hidden_BSD.square().sum(), seen["out"], retain_graph=True)
    (grad_ED,) = torch.autograd.grad(output.hidden_BSD.square().sum(), block.depth.router.weight_ED, retain_graph=True)
    x_ND = seen["chosen"].x_BCD.flatten(0, 1)
    token_N, r_N = seen["chosen"].routing.token_N, seen["chosen"].routing.weight_N
    f_ND = (seen["out"].flatten(0, 1)[token_N] - x_ND) / r_N[:, None]
    expected_D = ((grad_out.flatten(0, 1)[token_N] * f_ND).sum(1, keepdim=True) * x_ND).sum(0)
    same(grad_ED[0], expected_D)


def parts(decoder):
    named = dict(decoder.named_parameters())
    predictor = [parameter for name, parameter in named.items() if ".predictor." in name]
    return predictor, [parameter for name, parameter in named.items() if ".predictor." not in name]


def test_the_perceptron_predicts_without_moving_anything_else():
    decoder = deep_decoder()
    predictor, rest = parts(decoder)
    output = decoder(random_tokens(2, 6))
    losses = sum(routing.loss for routing in output.depth)
    assert all(grad.abs().sum() > 0 for grad in torch.autograd.grad(losses, predictor, retain_graph=True))
    assert all(grad is None for grad in torch.autograd.grad(losses, rest, allow_unused=True, retain_graph=True))
    grads = torch.autograd.grad(output.hidden_BSD.sum(), predictor, allow_unused=True)
    assert all(grad is None for grad in grads)


def test_a_router_that_predicts_is_trained_to():
    decoder = deep_decoder(BY_ROUTER)
    assert parts(decoder)[0] == []
    output = decoder(random_tokens(2, 6))
    for layer, routing in zip((1, 3), output.depth):
        router = decoder.blocks[layer].depth.router
        assert torch.equal(routing.load_TE, routing.logits_TE.sigmoid())
        (grad_ED,) = torch.autograd.grad(routing.loss, router.weight_ED, retain_graph=True)
        assert grad_ED.abs().sum() > 0


@pytest.mark.parametrize("padded", [False, True])
def test_the_loss_is_the_mean_cross_entropy_of_who_was_chosen(padded):
    decoder = deep_decoder(DepthConfig(capacity=0.5, predictor_weight=0.3))
    valid_BS = torch.ones(2, 6, dtype=torch.bool)
    valid_BS[0, :4] = not padded  # fewer tokens than places
    routing = decoder(random_tokens(2, 6), valid_BS=valid_BS if padded else None).depth[0]
    live_N = torch.ones(6, dtype=torch.bool) if routing.live_N is None else routing.live_N
    chosen, terms = routing.token_N[live_N].tolist(), []
    for t in range(12):
        if valid_BS.flatten()[t]:
            p = routing.load_TE[t, 0].item()
            terms.append(-math.log(p if t in chosen else 1 - p))
    assert len(chosen) == (5 if padded else 6)
    assert routing.loss.item() == pytest.approx(0.3 * sum(terms) / len(terms))


def test_a_predictor_learns_who_is_chosen():
    decoder = deep_decoder(DepthConfig(capacity=0.25), moe=None, dtype=torch.float32)
    predictor, rest = parts(decoder)
    for parameter in rest:
        parameter.requires_grad_(False)
    optimizer, tokens_BS = torch.optim.Adam(predictor, lr=0.01), random_tokens(16, 16)
    agreement = []
    for _ in range(100):
        output = decoder(tokens_BS)
        optimizer.zero_grad()
        sum(routing.loss for routing in output.depth).backward()
        optimizer.step()
        routing = output.depth[0]
        chosen_T = torch.zeros(256, dtype=torch.bool).index_fill(0, routing.token_N, True)
        agreement.append(((routing.load_TE[:, 0] > 0.5) == chosen_T).double().mean().item())
    assert agreement[0] < 0.8
    assert agreement[-1] > 0.9


@pytest.mark.parametrize("cuts", [[9], [1] * 9, [4, 1, 1, 1, 2], [3, 6]])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("depth", [HALF, BY_ROUTER])
def test_token_by_token_with_a_cache_equals_the_whole(depth, padding, cuts):
    decoder, tokens_BS = deep_decoder(depth).eval(), random_tokens(3, 9)
    valid_BS = None
    if padding:
        valid_BS = torch.ones(3, 9, dtype=torch.bool)
        valid_BS[0, :padding] = False
    whole = decoder(tokens_BS, valid_BS=valid_BS)
    cache, pieces, start = decoder.new_cache(3, 12), [], 0
    for length in cuts:
        part = slice(start, start + length)
        valid = None if valid_BS is None else valid_BS[:, part]
        pieces.append(decoder(tokens_BS[:, part], valid_BS=valid, cache=cache))
        start += length
    real = slice(None) if valid_BS is None else valid_BS
    same(torch.cat([piece.hidden_BSD for piece in pieces], 1)[real], whole.hidden_BSD[real], tolerance=1e-12)
    for layer, routing in zip((1, 3), whole.depth):
        assert int(cache.layers[layer].own_mask.count_B.sum()) == len(routing.token_N)
    assert cache.length == 9


def test_a_lone_row_keeps_the_keys_of_those_who_went_through_and_no_more():
    decoder = deep_decoder().eval()
    cache = decoder.new_cache(1, 12)
    for token in random_tokens(1, 12).split(1, dim=1):
        decoder(token, cache=cache)
    through = [len(routing.token_N) for routing in decoder(random_tokens(1, 12)).depth]
    assert [layer.length for layer in cache.layers] == [12, through[0], 12, through[1]]
    assert max(through) < 12


@pytest.mark.parametrize("bias", [-100.0, 100.0])
def test_nobody_or_everybody_may_go_through(bias):
    decoder, tokens_BS = deep_decoder().eval(), random_tokens(2, 5)
    with torch.no_grad():
        for layer in (1, 3):
            decoder.blocks[layer].depth.router.predictor.score_bias_E.fill_(bias)
    whole, cache = decoder(tokens_BS), decoder.new_cache(2, 5)
    same(torch.cat([decoder(token, cache=cache).hidden_BSD for token in tokens_BS.split(1, 1)], 1), whole.hidden_BSD)
    assert [len(routing.token_N) for routing in whole.depth] == ([0, 0] if bias < 0 else [10, 10])
    whole.hidden_BSD.square().sum().backward()


@pytest.mark.parametrize("training", [False, True])
def test_padding_passes_by(training):
    decoder = deep_decoder().train(training)
    tokens_BS, valid_BS = random_tokens(3, 6), torch.ones(3, 6, dtype=torch.bool)
    valid_BS[0, :4], valid_BS[1] = False, False
    output = decoder(tokens_BS, valid_BS=valid_BS)
    for routing in output.depth:
        live_N = routing.live_N if training else torch.ones_like(routing.token_N, dtype=torch.bool)
        assert torch.equal(valid_BS.flatten()[routing.token_N], live_N)
        assert load(routing, 1) == live_N.sum()
    assert output.hidden_BSD.isfinite().all()
    other_BS = torch.where(valid_BS, tokens_BS, random_tokens(3, 6, seed=9))
    same(decoder(other_BS, valid_BS=valid_BS).hidden_BSD[valid_BS], output.hidden_BSD[valid_BS])
    losses = sum(routing.loss for routing in output.depth) if training else 0
    (output.hidden_BSD.square().sum() + losses).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in decoder.parameters())


def test_activation_checkpointing_changes_no_gradient():
    decoder, tokens_BS = deep_decoder(), random_tokens(2, 6)
    found = []
    for activation_checkpointing in (False, True):
        output = decoder(tokens_BS, activation_checkpointing=activation_checkpointing)
        loss = output.hidden_BSD.square().sum() + sum(routing.loss for routing in output.depth)
        loss += sum(routing.probs_TE.square().sum() for routing in output.collected)
        found.append(torch.autograd.grad(loss, list(decoder.blocks.parameters())))
    assert all(torch.equal(plain, again) for plain, again in zip(*found))


def saved_bytes(decoder, tokens_BS):
    sizes = {}

    def note(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = decoder(tokens_BS)
    own = {parameter.untyped_storage().data_ptr() for parameter in decoder.parameters()}
    assert output.hidden_BSD.requires_grad
    return sum(size for pointer, size in sizes.items() if pointer not in own)


def test_what_is_kept_for_backward_is_that_of_the_chosen_tokens():
    ffn, tokens_BS = GLUExpertsConfig(hidden=256), random_tokens(2, 64)
    sizes = {"moe": None, "ffn": ffn, "dtype": torch.float32, "num_layers": 2}
    plain = saved_bytes(deep_decoder(None, **sizes), tokens_BS)
    shallow = saved_bytes(deep_decoder(None, **(sizes | {"num_layers": 1})), tokens_BS)
    deep = saved_bytes(deep_decoder(DepthConfig(capacity=0.125, predictor_hidden=4), **sizes), tokens_BS)
    assert deep - shallow < 0.25 * (plain - shallow)


def test_bfloat16_chooses_in_float32():
    decoder = deep_decoder(dtype=torch.bfloat16)
    router = decoder.blocks[1].depth.router
    assert {parameter.dtype for parameter in router.parameters()} == {torch.float32}
    output = decoder(random_tokens(2, 6))
    assert output.hidden_BSD.dtype == torch.bfloat16
    assert {output.depth[0].weight_N.dtype, output.depth[0].load_TE.dtype, output.depth[0].loss.dtype} == {
        torch.float32
    }
    (output.hidden_BSD.float().square().sum() + output.depth[0].loss).backward()
    assert router.weight_ED.grad.isfinite().all()


def test_autocast_narrows_the_block_and_not_the_choice():
    decoder = deep_decoder(dtype=torch.float32)
    exact = decoder(random_tokens(2, 6))
    with torch.autocast("cpu", torch.bfloat16):
        narrow = decoder(random_tokens(2, 6))
    assert narrow.depth[0].logits_TE.dtype == narrow.hidden_BSD.dtype == torch.float32
    assert narrow.collected[0].weight_N.dtype == torch.float32
    same(narrow.depth[0].logits_TE, exact.depth[0].logits_TE, tolerance=0.1)


def test_a_depth_changes_no_other_initial_weight():
    deep, plain = deep_decoder().state_dict(), deep_decoder(None).state_dict()
    assert deep.keys() > plain.keys()
    assert all(torch.equal(deep[name], weight) for name, weight in plain.items())
    assert not deep["blocks.1.depth.router.predictor.hidden_bias_F"].any()


def test_which_blocks_have_it():
    config = small_config(num_layers=7, depth=DepthConfig(every=3))
    assert config.depth_layers == (2, 5)
    assert [block.depth is not None for block in config.build().blocks] == [
        False,
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    assert small_config().depth_layers == ()
    assert from_json(DecoderConfig, to_json(config)) == config


@pytest.mark.parametrize(
    ("capacity", "length", "places"), [(0.125, 8, 1), (0.125, 9, 2), (0.1, 30, 3), (0.01, 5, 1), (1.0, 4, 4)]
)
def test_places(capacity, length, places):
    assert DepthConfig(capacity=capacity).places(length) == places


def test_positive_takes_as_many_places_as_the_fullest_row_needs():
    logit_BS = torch.tensor([[1.0, -1.0, 2.0, -1.0], [-1.0, -1.0, -1.0, 3.0]])
    index_BC, live_BC = positive(logit_BS, None)
    assert index_BC[0].tolist() == [0, 2]
    assert index_BC[1, 0] == 3
    assert live_BC.tolist() == [[True, True], [True, False]]
    assert positive(logit_BS[:1], None)[1] is None


def test_refuses():
    with pytest.raises((ValidationError, ValueError), match="capacity"):
        DepthConfig(capacity=0.0)
    with pytest.raises((ValidationError, ValueError), match="capacity"):
        DepthConfig(capacity=1.5)
    with pytest.raises(
        ValueError, match=r"depth: not together with a router that builds on the routing below, .*block 1"
    ):
        small_config(moe=RESIDUAL, depth=HALF).build()
    small_config(moe=RESIDUAL, depth=HALF, dense_first=2).build()  # block 2 has the mixture, block 1 the depth


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler trips over its own deprecations
def test_training_compiles_whole():
    torch.use_deterministic_algorithms(False)
    decoder, tokens_BS = deep_decoder(), random_tokens(2, 6)
    compiled = torch.compile(decoder, backend="aot_eager", fullgraph=True)
    same(compiled(tokens_BS).hidden_BSD, decoder(tokens_BS).hidden_BSD)
