"""GGUF files hold our numbers under llama.cpp's names, or are not written."""

import dataclasses
import math
import weakref

import gguf
import numpy as np
import pytest
import torch
from interop.gguf_cases import FFN, TWINS, decoder, grouped, latent, twin

from sparsemix.interop.gguf import write_gguf
from sparsemix.models import Llama3RopeConfig, YarnConfig
from sparsemix.tensors import Held


@pytest.fixture
def written(tmp_path):
    """Writes a model and reads the file back with the gguf package."""

    def write(model, dtype="float32"):
        path = tmp_path / "model.gguf"
        write_gguf(model, path, dtype)
        return gguf.GGUFReader(path)

    return write


def values(reader):
    return {name: field.contents() for name, field in reader.fields.items()}


def sorted_numbers(found):
    return torch.cat([tensor.flatten() for tensor in found.values()]).sort().values


def with_attention(config, attention):
    return dataclasses.replace(config, attention=attention)


def tensors(reader):
    return {one.name: torch.from_numpy(np.array(one.data)) for one in reader.tensors}


@pytest.mark.parametrize("name", TWINS)
def test_names_and_keys_are_those_that_the_gguf_package_knows(name, written):
    reader = written(twin(TWINS[name]))
    architecture = values(reader)["general.architecture"]
    assert architecture == name.split(":")[0]
    (kind,) = (one for one, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture)
    known = {gguf.TENSOR_NAMES[one].format(bid=layer) for one in gguf.MODEL_TENSORS[kind] for layer in range(3)}
    assert {one.name.removesuffix(".weight").removesuffix(".bias") for one in reader.tensors} <= known
    groups = [value for group in vars(gguf.Keys).values() if isinstance(group, type) for value in vars(group).values()]
    keys = {value.replace("{arch}", architecture) for value in groups if isinstance(value, str) and "." in value}
    assert {key for key in values(reader) if not key.startswith("GGUF.")} <= keys


@pytest.mark.parametrize("name", TWINS)
def test_every_number_of_ours_is_there_and_none_twice(name, written):
    model = twin(TWINS[name])
    found = tensors(written(model))
    found.pop("rope_freqs.weight", None)
    if model.config.tie_embeddings:
        found.pop("output.weight", None)
    assert torch.equal(sorted_numbers(found), sorted_numbers(model.tensors.tensors))


def test_experts_are_stacked_with_gate_and_up_apart(written):
    model = twin(TWINS["qwen3moe"])
    found, ours = tensors(written(model)), model.tensors.tensors
    gate, up = ours["blocks.1.ffn.experts.gate_up_EFD"].split(32, dim=1)
    assert torch.equal(found["blk.1.ffn_gate_exps.weight"], gate)
    assert torch.equal(found["blk.1.ffn_up_exps.weight"], up)
    assert torch.equal(found["blk.1.ffn_down_exps.weight"], ours["blocks.1.ffn.experts.down_EDF"])
    assert torch.equal(found["blk.1.ffn_gate_inp.weight"], ours["blocks.1.ffn.router.weight_ED"])


def test_rotary_pairs_lie_side_by_side_where_llama_cpp_turns_neighbours(written):
    model = twin(TWINS["llama: Mixtral"])
    found, ours = tensors(written(model)), model.tensors.tensors
    theirs, heads = found["blk.0.attn_k.weight"], ours["blocks.0.attention.key.weight"].view(2, 16, 64)
    for head in range(2):
        for pair in range(8):
            rows = theirs[head * 16 + 2 * pair : head * 16 + 2 * pair + 2]
            assert torch.equal(rows, heads[head, [pair, pair + 8]])


def test_latent_attention_is_cut_into_what_llama_cpp_applies_to_queries_and_to_the_mixed(written):
    model = twin(TWINS["deepseek2: V3"])
    found, ours = tensors(written(model)), model.tensors.tensors
    up = ours["blocks.0.attention.key_value_up.weight"].view(4, 16 + 24, 32)
    for head in range(4):
        assert torch.equal(found["blk.0.attn_k_b.weight"][head], up[head, :16].T)
        assert torch.equal(found["blk.0.attn_v_b.weight"][head], up[head, 16:])
    latent_rows = ours["blocks.0.attention.latent.weight"]
    order = [*range(32), 32, 36, 33, 37, 34, 38, 35, 39]
    assert torch.equal(found["blk.0.attn_kv_a_mqa.weight"], latent_rows[order])


@pytest.mark.parametrize("name", ["qwen3moe", "gpt-oss", "deepseek2: V3"])
def test_narrow_types_leave_what_steers_alone(name, written):
    model = twin(TWINS[name])
    kinds = {one.name: one.tensor_type.name for one in written(model, "q8_0").tensors}
    steering = [one for one in kinds if "norm" in one or "gate_inp" in one or one.endswith(".bias") or "sinks" in one]
    assert {kinds[one] for one in steering} == {"F32"}
    others = {one: kind for one, kind in kinds.items() if one not in steering}
    narrow_rows = {one for one in others if "attn_k_b" in one}  # 16 numbers, fewer than share a scale
    assert {others[one] for one in narrow_rows} <= {"F16"}
    assert {kind for one, kind in others.items() if one not in narrow_rows} == {"Q8_0"}


def test_q8_0_is_within_half_a_step_of_the_largest_in_its_block(written):
    model = twin(TWINS["qwen3moe"])
    exact = model.tensors.tensors["blocks.0.ffn.experts.down_EDF"]
    (found,) = (one for one in written(model, "q8_0").tensors if one.name == "blk.0.ffn_down_exps.weight")
    error = torch.from_numpy(gguf.dequantize(found.data, found.tensor_type)) - exact
    largest = exact.unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True)
    assert (error.unflatten(-1, (-1, 32)).abs() <= largest / 127 * (0.5 + 127 * 2**-11)).all()


def test_float16_is_within_its_rounding(written):
    model = twin(TWINS["qwen3moe"])
    (found,) = (one for one in written(model, "float16").tensors if one.name == "token_embd.weight")
    assert found.tensor_type.name == "F16"
    exact = model.tensors.tensors["embedding.weight"]
    torch.testing.assert_close(torch.from_numpy(np.array(found.data)).float(), exact, rtol=2**-11, atol=2**-25)


def test_bfloat16_models_are_written_as_they_are(written):
    model = twin(TWINS["qwen3moe"])
    narrow = {name: tensor.bfloat16() for name, tensor in model.tensors.tensors.items()}
    found = tensors(written(model._replace(tensors=Held(narrow))))
    assert torch.equal(found["output.weight"], narrow["unembedding.weight"].float())


def test_one_tensor_is_read_at_a_time_and_once(tmp_path):
    model = twin(TWINS["qwen3moe"])
    source = Watched(model.tensors.tensors)
    write_gguf(model._replace(tensors=source), tmp_path / "model.gguf")
    assert source.names == list(source.specs)
    assert source.most_alive <= 2  # what is read now, and what was cut last


class Watched(Held):
    """Counts which tensors that it gave out are still held."""

    def __init__(self, given):
        super().__init__(given)
        self.names, self.alive, self.most_alive = [], weakref.WeakSet(), 0

    def read(self, name):
        tensor = super().read(name).clone()
        self.names.append(name)
        self.alive.add(tensor)
        self.most_alive = max(self.most_alive, len(self.alive))
        return tensor


@pytest.mark.parametrize("factor", [1.3, None])
@pytest.mark.parametrize("scale", [None, 0.5, 24**-0.5 * 1.3**2])
def test_yarn_of_latent_attention_is_what_llama_cpp_makes_of_it(factor, scale, written):
    yarn = YarnConfig(factor=4, original_context=32, attention_factor=factor)
    config = TWINS["deepseek2: V2"]
    found = values(written(twin(with_attention(config, latent(rope_scaling=yarn, scale=scale)))))
    usual = 1 + 0.1 * math.log(4)
    given, multiplier = (
        found.get(f"deepseek2.rope.scaling.{key}", 0.0) for key in ("attn_factor", "yarn_log_multiplier")
    )
    turning = given if multiplier else given * usual
    scores = (turning * (1 + 10 * multiplier * (usual - 1))) ** 2 / math.sqrt(24)
    assert turning == pytest.approx(factor or usual, rel=1e-6)
    assert scores == pytest.approx(scale or 24**-0.5, rel=1e-6)


def test_llama_3_stretches_by_a_tensor(written):
    config = decoder(
        grouped(head_dim=32, rope_theta=1e4, rope_scaling=Llama3RopeConfig(factor=8, original_context=64)), ffn=FFN
    )
    slower = tensors(written(twin(config)))["rope_freqs.weight"].tolist()
    for pair, found in enumerate(slower):
        turns = 64 * 1e4 ** (-pair / 16) / (2 * math.pi)
        kept = min(max((turns - 1) / 3, 0), 1)
        assert found == pytest.approx(1 / (kept + (1 - kept) / 8), rel=1e-5)


def test_what_llama_cpp_rounds_is_said(written):
    yarn = YarnConfig(factor=4, original_context=32, truncate=False)
    with pytest.warns(UserWarning, match="truncate"):
        written(twin(with_attention(TWINS["qwen3"], grouped(qk_norm="head", rope_scaling=yarn))))
