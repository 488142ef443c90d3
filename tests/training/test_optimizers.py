"""Parameter groups: every parameter once, decay on matrices alone."""

import pytest
import torch

from headwise.config import OptimizerConfig
from headwise.errors import UserError
from headwise.model.attention import CausalSelfAttention
from headwise.training.optimizers import make_optimizer, orthogonalize, parameter_groups
from tests.presets import PRESETS
from tests.small import small_model


@pytest.mark.parametrize("preset", PRESETS)
def test_every_parameter_is_in_one_group_and_only_matrices_decay(preset):
    model = small_model(preset)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, plain = parameter_groups(list(model.parameters()), 0.1)
    grouped = [names[id(p)] for group in (decayed, plain) for p in group["params"]]
    assert sorted(grouped) == sorted(names.values())
    assert plain["weight_decay"] == 0.0
    assert all("norm" in names[id(p)] or names[id(p)].endswith("bias") for p in plain["params"])
    assert not any("norm" in names[id(p)] or names[id(p)].endswith("bias") for p in decayed["params"])


def test_adamw_takes_the_step_of_torchs_plain_adamw():
    ours, theirs = small_model(), small_model()
    config = OptimizerConfig(lr=0.01, beta1=0.8, beta2=0.9, weight_decay=0.3)
    optimizer = make_optimizer(ours, config)
    reference = torch.optim.AdamW(
        parameter_groups(list(theirs.parameters()), 0.3),
        lr=0.01,
        betas=(0.8, 0.9),
        eps=1e-8,
        foreach=False,
        fused=False,
    )
    for _ in range(3):
        for model, stepper in ((ours, optimizer), (theirs, reference)):
            stepper.zero_grad()
            model(torch.tensor([[1, 2, 3]])).square().sum().backward()
            stepper.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def trained(model, optimizer, steps=3):
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.tensor([[1, 2, 3, 5 + step]])).square().sum().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("preset", PRESETS)
def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest(preset):
    model = small_model(preset)
    optimizer = make_optimizer(model, OptimizerConfig(kind="muon"))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    assert sorted(name for group in groups for name in group) == sorted(names.values())
    assert set(groups[0]) == {n for n, p in model.named_parameters() if n.startswith("blocks") and p.dim() == 2}


def test_muons_part_for_adamw_is_torchs_own():
    ours, theirs = small_model(), small_model()
    trained(ours, make_optimizer(ours, OptimizerConfig(kind="muon", lr=0.01, muon_lr=1e-12, weight_decay=0.3)))
    blocks = {id(p) for n, p in theirs.named_parameters() if n.startswith("blocks") and p.dim() == 2}
    rest = parameter_groups([p for p in theirs.parameters() if id(p) not in blocks], 0.3)
    trained(theirs, torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.99), eps=1e-8))
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name


def test_muon_takes_the_step_of_torchs_own_muon():
    """torch.optim.Muon goes matrix by matrix and iterates in bfloat16; W_Q, W_K and W_V are three matrices to us."""
    ours, theirs = small_model(n_layer=1), small_model(n_layer=1)
    config = OptimizerConfig(kind="muon", lr=1e-12, muon_lr=0.02, muon_weight_decay=0.1)
    matrices = [p for n, p in theirs.named_parameters() if n.startswith("blocks") and p.dim() == 2]
    attention = theirs.blocks[0].attention
    torch.manual_seed(0)
    gradients = [[torch.randn_like(p) for p in matrices] for _ in range(3)]
    optimizer = make_optimizer(ours, config)
    split = [p for p in matrices if p is not attention.qkv.weight]
    thirds = [torch.nn.Parameter(part.clone()) for part in attention.qkv.weight.split(attention.widths)]
    reference = torch.optim.Muon([*split, *thirds], lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True)
    mine = [p for n, p in ours.named_parameters() if n.startswith("blocks") and p.dim() == 2]
    for given in gradients:
        for p, hers, grad in zip(mine, matrices, given, strict=True):
            p.grad = hers.grad = grad.clone()
            if hers is attention.qkv.weight:
                for third, part in zip(thirds, grad.split(attention.widths), strict=True):
                    third.grad = part.clone()
        optimizer.step()
        reference.step()
    expected = {id(p): p for p in split} | {id(attention.qkv.weight): torch.cat(thirds)}
    for p, hers in zip(mine, matrices, strict=True):
        assert torch.allclose(p, expected[id(hers)], atol=2e-3)  # bfloat16 keeps three digits of steps of 0.02
        assert (p - expected[id(hers)]).abs().mean() < 2e-4


@pytest.mark.parametrize("shape", [(3, 17, 17), (2, 13, 41), (2, 41, 13)])
def test_orthogonalize_brings_singular_values_near_one_and_keeps_their_vectors(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalize(x, 5)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.3
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    inside = u.mT @ result @ v.mT  # diagonal where the vectors are kept
    assert torch.allclose(inside, torch.diag_embed(inside.diagonal(dim1=-2, dim2=-1)), atol=1e-4)


def test_muon_goes_on_from_its_state_dict_bit_for_bit():
    config = OptimizerConfig(kind="muon")
    whole = small_model()
    trained(whole, make_optimizer(whole, config), 4)
    model = small_model()
    optimizer = make_optimizer(model, config)
    trained(model, optimizer, 2)
    saved = optimizer.state_dict()
    optimizer = make_optimizer(model, config)
    optimizer.load_state_dict(saved)
    for step in (2, 3):
        optimizer.zero_grad()
        model(torch.tensor([[1, 2, 3, 5 + step]])).square().sum().backward()
        optimizer.step()
    for a, b in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_closure_that_sets_gradients_to_zero_reaches_every_parameter():
    """Lightning's does: zero, forward, backward, all inside of step."""
    plain, closed = small_model(), small_model()
    config = OptimizerConfig(kind="muon")
    trained(plain, make_optimizer(plain, config))
    optimizer = make_optimizer(closed, config)
    for step in range(3):

        def closure(step=step):
            optimizer.zero_grad()
            loss = closed(torch.tensor([[1, 2, 3, 5 + step]])).square().sum()
            loss.backward()
            return loss

        assert float(optimizer.step(closure)) > 0
    for a, b in zip(plain.parameters(), closed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_query_key_and_value_matrices_are_orthogonalized_each_for_itself():
    model = small_model(n_kv_head=1, n_layer=1)
    group = make_optimizer(model, OptimizerConfig(kind="muon")).param_groups[0]
    (attention,) = (m for m in model.modules() if isinstance(m, CausalSelfAttention))
    index = next(i for i, p in enumerate(group["params"]) if p is attention.qkv.weight)
    assert group["parts"][index] == [18, 6, 6]


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(UserError, match=r"optimizer\.kind=adam is none of adamw, muon; did you mean adamw"):
        make_optimizer(small_model(), OptimizerConfig(kind="adam"))
