"""Effects of heads on predictions, against brute force."""

import pytest
import torch
from torch import nn

from headwise.inspection.effects import (
    EFFECTS,
    FrozenNorm,
    ResidualStream,
    importance,
    logit_attribution,
    mean_ablation,
    ov_copying,
    repeat_losses,
)
from headwise.inspection.hooks import capture, edit_heads
from headwise.model.gpt import next_token_loss
from tests.small import randomize, small_model

IDS = torch.randint(23, (5, 8), generator=torch.Generator().manual_seed(3))
MODELS = {
    "qwen3": lambda: randomize(small_model()),
    "gpt2": lambda: randomize(small_model("gpt2")),
    "alibi": lambda: randomize(small_model("gpt2", position="alibi")),
    "grouped": lambda: randomize(small_model(n_kv_head=1, dropout=0.5)),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def test_residual_stream_parts_sum_to_the_stream_and_their_logits_to_those_of_the_model(model):
    parts = ResidualStream(model, IDS)
    through = FrozenNorm(model, parts.total())
    heads = through.logits(parts.heads.transpose(1, 2)).sum((0, 1))  # over layers and heads, [B, T, V]
    rest = [parts.embedding, parts.mlp.sum(0), parts.bias.sum(0)]
    logits = heads + sum(through.logits(part) for part in rest) + through.bias @ model.head.weight.T
    assert torch.allclose(logits, model(IDS), atol=1e-4)


def test_logit_attribution_is_the_heads_logit_of_the_next_token_above_the_mean(model):
    parts = ResidualStream(model, IDS[:, :-1])
    logits = FrozenNorm(model, parts.total()).logits(parts.heads[1, :, 2])  # layer 1, head 2: [B, T, V]
    centred = logits - logits.mean(-1, keepdim=True)
    expected = centred.gather(-1, IDS[:, 1:, None]).mean()
    assert torch.allclose(logit_attribution(model, IDS)[1, 2], expected, atol=1e-5)


def test_ov_copying_has_the_eigenvalues_of_the_whole_circuit(model):
    part = model.blocks[1].attention
    scale, final = model.blocks[1].attention_norm.weight, model.norm.weight
    w_v = (part.qkv.weight.split(part.widths)[2] * scale).unflatten(0, (part.n_kv_head, -1))
    w_v = w_v[2 if part.n_kv_head > 1 else 0]
    w_o = part.out.weight.unflatten(1, (3, -1))[:, 2]
    centre = torch.eye(18) - (torch.ones(18, 18) / 18 if isinstance(model.norm, nn.LayerNorm) else 0)
    above_mean = torch.eye(23) - 1 / 23
    unembedding = above_mean @ (model.head.weight * final) @ centre
    circuit = (model.embedding.weight @ centre @ w_v.T @ w_o.T @ unembedding.T).detach()  # [V, V]
    values = torch.linalg.eigvals(circuit.double())
    expected = float(values.sum().real / values.abs().sum())
    assert float(ov_copying(model, IDS)[1, 2]) == pytest.approx(expected, abs=1e-4)


def test_ov_copying_ignores_changes_that_do_not_affect_the_logits():
    gpt2, untied = randomize(small_model("gpt2", tie_embeddings=False)), randomize(small_model())
    before = ov_copying(gpt2, IDS), ov_copying(untied, IDS)
    with torch.no_grad():
        gpt2.embedding.weight += 3.0  # LayerNorm takes the mean away
        untied.head.weight += torch.randn(18)  # all logits alike
    assert torch.allclose(ov_copying(gpt2, IDS), before[0], atol=1e-3)
    assert torch.allclose(ov_copying(untied, IDS), before[1], atol=1e-3)


def test_ov_copying_is_one_for_a_head_that_copies_and_minus_one_for_one_that_suppresses():
    model = small_model(n_head=1, n_layer=1, n_embd=24)
    part = model.blocks[0].attention
    with torch.no_grad():
        model.embedding.weight.copy_(torch.eye(23, 24))
        model.head.weight.copy_(torch.eye(23, 24))
        part.qkv.weight[48:] = torch.eye(24)
        for sign in (1.0, -1.0):
            part.out.weight.copy_(sign * torch.eye(24))
            assert float(ov_copying(model, IDS)) == pytest.approx(sign, abs=1e-4)


def test_ov_copying_of_a_circuit_of_zeros_is_zero():
    model = small_model(init="zero_output")
    assert torch.equal(ov_copying(model, IDS), torch.zeros(2, 3))


def test_importance_is_the_slope_of_the_loss_as_the_head_is_scaled_down(model):
    """z . dLoss/dz is the derivative of the loss by a factor on z, at 1."""
    at = 1e-3

    def losses(factor):
        def fade(layer, z):
            return torch.cat((z[:, :1], z[:, 1:2] * factor, z[:, 2:]), dim=1) if layer == 1 else z

        with torch.no_grad(), edit_heads(model, fade):
            each = next_token_loss(model(IDS[:, :-1]), IDS[:, 1:], reduction="none")
        return each.view(5, -1).mean(-1).double()

    slope = (losses(1 + at) - losses(1 - at)) / (2 * at)
    assert float(importance(model, IDS)[1, 1]) == pytest.approx(float(slope.abs().mean()), rel=0.02, abs=1e-4)


def test_mean_ablation_is_the_increase_of_the_loss_with_the_mean_of_z(model):
    with capture(model) as maps:
        before = next_token_loss(model(IDS[:, :-1]), IDS[:, 1:])
    width = model.config.head_dim
    mean = maps[1].z[:, 2].mean((0, 1))

    def put_mean(module, inputs):
        z = inputs[0].clone()
        z[..., 2 * width : 3 * width] = mean
        return (z,)

    hook = model.blocks[1].attention.out.register_forward_pre_hook(put_mean)
    with torch.no_grad():
        after = next_token_loss(model(IDS[:, :-1]), IDS[:, 1:])
    hook.remove()
    assert torch.allclose(mean_ablation(model, IDS)[1, 2], after - before, atol=1e-5)


@pytest.mark.parametrize("name", EFFECTS)
def test_effects_leave_the_model_unchanged(name):
    model = small_model(dropout=0.5).train()
    attends = [block.attention.attend for block in model.blocks]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    scores = EFFECTS[name](model, IDS)
    assert scores.shape == (2, 3)
    assert torch.isfinite(scores).all()
    assert model.training
    assert [block.attention.attend for block in model.blocks] == attends
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(random, torch.get_rng_state())


def test_repeat_losses_separate_first_occurrences_from_repeats_in_each_sequence():
    logits = torch.zeros(2, IDS.size(1), 23)
    for b, period in enumerate((3, 4)):
        for t in range(period, IDS.size(1) - 1):
            logits[b, t, IDS[b, t + 1]] = 9.0  # knows exactly where each sequence starts over
    knows, guesses = 22 * torch.tensor(-9.0).exp() + 1, torch.tensor(23.0)
    expected = (float(guesses.log()), float(knows.log()))
    assert repeat_losses(logits, IDS[:2], torch.tensor([3, 4])) == pytest.approx(expected, abs=1e-6)
