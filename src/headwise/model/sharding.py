"""A model whose weights are sharded over several devices (FSDP): sharding it, and getting whole tensors back.

For a model on one device each function returns what it is given. Functions marked "collective" must be called by all
processes; a process that does not call leaves the others waiting.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from headwise.model.gpt import GPT


def shard_like(full: Tensor, like: Tensor) -> Tensor:
    """Return this device's shard of a whole tensor if `like`, of the same shape, is sharded; else the tensor."""
    if not isinstance(like, DTensor):
        return full
    # Each device has the whole tensor: nothing is sent.
    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def full_scalar(value: Tensor) -> Tensor:
    """Return a norm or another scalar over all shards of a sharded tensor, or as it is. Collective."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def full_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Return a sharded module's state_dict with whole tensors on the CPU of the first device, one for tied weights; an
    empty one on the other devices. Collective."""
    full: Any = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    weights = module.state_dict(keep_vars=True)
    names = {id(weight): name for name, weight in weights.items()}
    return {name: full[names[id(weight)]] for name, weight in weights.items()} if full else {}


def shard_model(model: GPT, mesh: DeviceMesh) -> None:
    """Shard every weight over the devices of the mesh. A block is gathered for its forward pass and again for its
    backward pass; embedding, last norm and unembedding together for the whole of each. Between passes everything is
    sharded, also after a validation, which has no backward pass."""
    if isinstance(model, FSDPModule):
        return
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def gather_model(model: GPT, is_first: bool) -> GPT | None:
    """Return the model on the first device, and None on the others. A sharded model is returned as a copy, which the
    first device must have memory for. Collective."""
    if not isinstance(model, FSDPModule):
        return model if is_first else None
    weights = full_state_dict(model)
    if not weights:
        return None
    like = next(model.parameters())
    return GPT.from_weights(model.config, weights).to(like.device, like.dtype).train(model.training)


def compile_in_place(model: GPT) -> None:
    """Compile the model without changing the names of its weights. For a sharded model, compile each block's
    computation and not the gathering."""
    if not isinstance(model, FSDPModule):
        model.compile()
        return
    for block in model.blocks:
        block.forward = torch.compile(block.forward)
