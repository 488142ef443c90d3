"""The model against GPT-2 and Qwen3 as `transformers` has them, and what must hold for every preset."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from headwise.errors import UserError
from headwise.model.config import GPTConfig
from headwise.model.gpt import GPT, IGNORE, eval_mode, next_token_loss
from tests.presets import PRESETS

V, L, T = 53, 3, 13


def close(a, b, atol=1e-5):
    return torch.allclose(a, b, atol=atol)


def randomize(model):
    """Values that a mistake cannot hide behind: no zeros, no ones, nothing symmetric."""
    torch.manual_seed(1)
    for p in model.parameters():
        p.data = torch.randn_like(p) * 0.2 + 0.05


def grads(model, ids):
    logits = model(ids)
    logits = getattr(logits, "logits", logits)
    next_token_loss(logits[:, :-1], ids[:, 1:]).backward()
    return logits.detach()


def test_classic_is_gpt2_logits_and_gradients():
    theirs = GPT2LMHeadModel(
        GPT2Config(vocab_size=V, n_positions=17, n_embd=35, n_layer=L, n_head=5, bos_token_id=0, eos_token_id=0)
    ).eval()
    randomize(theirs)
    ours = GPT(GPTConfig(vocab_size=V, block_size=17, n_embd=35, n_layer=L, n_head=5, **PRESETS["classic"]))
    names = {
        "embedding.weight": "transformer.wte.weight",
        "position.table.weight": "transformer.wpe.weight",
        "norm.weight": "transformer.ln_f.weight",
        "norm.bias": "transformer.ln_f.bias",
    }
    parts = {"attention_norm": "ln_1", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj"}
    parts |= {"mlp_norm": "ln_2", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
    for i in range(L):
        for mine, hers in parts.items():
            for kind in ("weight", "bias"):
                names[f"blocks.{i}.{mine}.{kind}"] = f"transformer.h.{i}.{hers}.{kind}"
    source, target = dict(theirs.named_parameters()), dict(ours.named_parameters())
    assert set(names) == set(target)
    assert set(names.values()) == set(source)

    def turn(name, value):  # GPT-2 keeps its matrices the other way round
        return value.T if ".c_" in name and value.dim() == 2 else value

    for mine, hers in names.items():
        target[mine].data.copy_(turn(hers, source[hers].data))
    ids = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(0))
    assert close(grads(ours, ids), grads(theirs, ids))
    for mine, hers in names.items():
        assert close(target[mine].grad, turn(hers, source[hers].grad), 1e-4), mine


def test_modern_is_qwen3_logits_and_gradients():
    theirs = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=V,
            hidden_size=35,
            intermediate_size=59,
            num_hidden_layers=L,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=10,
            max_position_embeddings=17,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=False,
        )
    ).eval()
    randomize(theirs)
    sizes = {"n_embd": 35, "n_inner": 59, "n_layer": L, "n_head": 6, "n_kv_head": 2, "head_dim": 10}
    ours = GPT(GPTConfig(vocab_size=V, block_size=17, **sizes, **PRESETS["modern"]))
    names = {
        "embedding.weight": ["model.embed_tokens.weight"],
        "norm.weight": ["model.norm.weight"],
        "head.weight": ["lm_head.weight"],
    }
    parts = {
        "attention_norm": ["input_layernorm"],
        "attention.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "attention.q_norm": ["self_attn.q_norm"],
        "attention.k_norm": ["self_attn.k_norm"],
        "attention.out": ["self_attn.o_proj"],
        "mlp_norm": ["post_attention_layernorm"],
        "mlp.gate": ["mlp.gate_proj"],
        "mlp.up": ["mlp.up_proj"],
        "mlp.down": ["mlp.down_proj"],
    }
    for i in range(L):
        for mine, hers in parts.items():
            names[f"blocks.{i}.{mine}.weight"] = [f"model.layers.{i}.{name}.weight" for name in hers]
    source, target = dict(theirs.named_parameters()), dict(ours.named_parameters())
    assert set(names) == set(target)
    assert {name for hers in names.values() for name in hers} == set(source)
    for mine, hers in names.items():
        target[mine].data.copy_(torch.cat([source[name].data for name in hers]))
    ids = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(0))
    assert close(grads(ours, ids), grads(theirs, ids))
    for mine, hers in names.items():
        assert close(target[mine].grad, torch.cat([source[name].grad for name in hers]), 1e-4), mine


@pytest.mark.parametrize("preset", PRESETS)
def test_no_token_changes_when_a_later_one_does(preset):
    model = GPT(GPTConfig(vocab_size=V, block_size=T, n_embd=30, n_head=3, **PRESETS[preset]))
    randomize(model)
    ids = torch.randint(V, (2, T))
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % V
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not close(before[:, 7:], after[:, 7:], 1e-2)


@pytest.mark.parametrize("preset", PRESETS)
def test_fused_and_reference_attention_give_the_same_model_and_gradients(preset):
    kinds = PRESETS[preset] | {"n_kv_head": 1}
    fast, plain = (GPT(GPTConfig(vocab_size=V, block_size=T, n_embd=30, n_head=3, **kinds)) for _ in range(2))
    randomize(fast)
    randomize(plain)
    for block in plain.blocks:
        block.attention.attend = block.attention.reference
    ids = torch.randint(V, (2, T))
    assert close(grads(fast, ids), grads(plain, ids))
    for (name, a), b in zip(fast.named_parameters(), plain.parameters(), strict=True):
        assert close(a.grad, b.grad), name


def test_zero_output_init_starts_at_the_loss_of_knowing_nothing():
    model = GPT(GPTConfig(vocab_size=V, block_size=T, n_embd=30, n_head=3, **PRESETS["modern"]))
    ids = torch.randint(V, (2, T))
    assert math.isclose(next_token_loss(model(ids), ids).item(), math.log(V), rel_tol=1e-6)


def test_gpt2_init_shrinks_what_writes_to_the_stream_and_a_tied_head_is_the_embedding():
    model = GPT(GPTConfig(vocab_size=997, block_size=T, n_embd=128, n_layer=8, **PRESETS["classic"]))
    assert model.head.weight is model.embedding.weight
    assert math.isclose(model.embedding.weight.std().item(), 0.02, rel_tol=0.05)
    assert math.isclose(model.blocks[3].mlp.down.weight.std().item(), 0.02 / math.sqrt(16), rel_tol=0.05)
    assert not model.blocks[3].attention.qkv.bias.any()


def test_targets_to_ignore_do_not_count():
    logits, targets = torch.randn(2, 5, V), torch.randint(V, (2, 5))
    ignored = targets.clone()
    ignored[1, 2:] = IGNORE
    kept = torch.cat((logits[0], logits[1, :2])), torch.cat((targets[0], targets[1, :2]))
    assert close(next_token_loss(logits, ignored), torch.nn.functional.cross_entropy(*kept))


def test_eval_mode_gives_every_part_its_own_mode_back():
    model = GPT(GPTConfig(vocab_size=V))
    model.train()
    model.blocks[1].eval()
    before = [module.training for module in model.modules()]
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before


def test_a_sequence_longer_than_the_block_size_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="14 tokens is longer than block_size=13"):
        GPT(GPTConfig(vocab_size=V, block_size=13))(torch.zeros(1, 14, dtype=torch.long))


@pytest.mark.parametrize("key", ["attention", "position", "norm", "mlp", "init"])
def test_an_unknown_kind_is_refused_with_the_known_ones(key):
    with pytest.raises(UserError, match=f"model.{key}=nonsense is none of "):
        GPT(GPTConfig(vocab_size=V, **{key: "nonsense"}))
