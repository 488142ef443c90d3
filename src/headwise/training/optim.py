"""Optimizers, by name."""

from __future__ import annotations

import torch
from torch import nn

from headwise.config import OptimizerConfig
from headwise.errors import choose


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Decay for matrices, embeddings among them; none for vectors, the biases and the norms' scales."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), all parameters of a group in one kernel."""
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


OPTIMIZERS = {"adamw": adamw}


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer that the configuration names."""
    return choose("optimizer.kind", config.kind, OPTIMIZERS)(model, config)
