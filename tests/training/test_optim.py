"""Parameter groups: every parameter once, decay on matrices alone."""

import pytest
import torch

from headwise.config import OptimizerConfig
from headwise.errors import UserError
from headwise.training.optim import make_optimizer, parameter_groups
from tests.presets import PRESETS
from tests.small import small_model


@pytest.mark.parametrize("preset", PRESETS)
def test_every_parameter_is_in_one_group_and_only_matrices_decay(preset):
    model = small_model(preset)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, plain = parameter_groups(model, 0.1)
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
        parameter_groups(theirs, 0.3), lr=0.01, betas=(0.8, 0.9), eps=1e-8, foreach=False, fused=False
    )
    for _ in range(3):
        for model, stepper in ((ours, optimizer), (theirs, reference)):
            stepper.zero_grad()
            model(torch.tensor([[1, 2, 3]])).square().sum().backward()
            stepper.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(UserError, match=r"optimizer\.kind=adam is none of adamw; did you mean adamw"):
        make_optimizer(small_model(), OptimizerConfig(kind="adam"))
