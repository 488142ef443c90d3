"""Sharded models: their whole tensors and logits are those of the model before it was sharded."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from headwise.model.sharding import (
    compile_in_place,
    full_scalar,
    full_state_dict,
    gather_model,
    shard_like,
    shard_model,
)
from tests.small import randomize, small_model


@pytest.fixture
def mesh(tmp_path):
    """A mesh of one process, over gloo."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("preset", ["gpt2", "qwen3"])
def test_sharded_model_is_gathered_with_its_weights_and_logits(mesh, preset):
    model = randomize(small_model(preset))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    expected = model(ids)
    shard_model(model, mesh)
    shard_model(model, mesh)  # the second time changes nothing
    assert all(isinstance(p, DTensor) for p in model.parameters())
    full = full_state_dict(model)
    assert full.keys() == weights.keys()
    assert all(torch.equal(full[name], weights[name]) for name in weights)
    gathered = gather_model(model, is_first=True)
    assert not any(isinstance(p, DTensor) for p in gathered.parameters())
    assert torch.equal(gathered(ids), expected)
    assert not gathered.training


def test_shard_like_and_full_scalar_convert_between_whole_and_sharded_tensors(mesh):
    model = randomize(small_model())
    shard_model(model, mesh)
    weight = model.embedding.weight
    whole = torch.randn(weight.shape)
    assert torch.equal(shard_like(whole, weight).full_tensor(), whole)
    norm = torch.nn.utils.get_total_norm([p.detach() for p in model.parameters()])
    assert isinstance(norm, DTensor)
    squares = sum(float(p.detach().full_tensor().square().sum()) for p in model.parameters())
    assert float(full_scalar(norm)) == pytest.approx(squares**0.5, rel=1e-5)


def test_model_on_one_device_is_returned_as_it_is():
    model = small_model()
    weight = model.embedding.weight
    assert gather_model(model, is_first=True) is model
    assert gather_model(model, is_first=False) is None
    assert shard_like(weight, weight) is weight
    assert full_scalar(weight) is weight


def test_compiling_in_place_keeps_the_names_of_weights():
    model = small_model()
    names = list(model.state_dict())
    compile_in_place(model)
    assert list(model.state_dict()) == names
