"""Optimizers, by name: adamw, muon."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from headwise.config import OptimizerConfig
from headwise.errors import choose
from headwise.model.attention import CausalSelfAttention
from headwise.model.sharding import shard_like
from headwise.registry import table


def parameter_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict]:
    """Return the groups with weight decay (matrices and embeddings) and without it (biases and the norms' scales)."""
    matrices = [p for p in parameters if p.dim() >= 2]
    vectors = [p for p in parameters if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019), with all parameters of a group in one kernel."""
    groups = parameter_groups(list(model.parameters()), config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


def muon(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return Muon for the matrices inside the blocks, AdamW for everything else."""
    matrices = {name: p for name, p in model.named_parameters() if name.startswith("blocks.") and p.dim() == 2}
    # W_Q, W_K and W_V are three matrices, stored in one.
    sizes = {id(m.qkv.weight): m.widths for m in model.modules() if isinstance(m, CausalSelfAttention)}
    parts = [sizes.get(id(p), [len(p)]) for p in matrices.values()]
    rest = [p for name, p in model.named_parameters() if name not in matrices]
    hidden = {
        "params": list(matrices.values()),
        "lr": config.muon_lr,
        "weight_decay": config.muon_weight_decay,
        "muon": True,
        "parts": parts,
        "momentum": config.muon_momentum,
        "iterations": config.ns_steps,
    }
    groups = [hidden, *parameter_groups(rest, config.weight_decay)]
    return Muon(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


# a, b, c of X <- a X + b (X X^T) X + c (X X^T)^2 X (Jordan et al. 2024): steep at zero, so that small singular values
# grow fast, and about one from there on.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalize(x: Tensor, iterations: int) -> Tensor:
    """Return matrices x [N, m, n] with singular values near 1: U V^T instead of U S V^T, by Newton-Schulz iterations
    in the dtype of x."""
    is_tall = x.size(-2) > x.size(-1)
    x = x.mT if is_tall else x  # the product below is of the shorter side
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


class Muon(torch.optim.AdamW):
    """Optimizer that updates groups with muon=True by Muon (Jordan et al. 2024), and the others by AdamW.

    Muon's update is the orthogonalized momentum of a matrix: it changes the matrix by the same amount in every
    direction.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        # First, while all groups are there: Lightning's closure sets their gradients to zero.
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        all_groups = self.param_groups
        self.param_groups = [group for group in all_groups if not group.get("muon")]
        try:
            super().step()  # AdamW's, which goes through param_groups
        finally:
            self.param_groups = all_groups
        for group in all_groups:
            if group.get("muon"):
                self.muon_step(group)
        return loss

    def muon_step(self, group: dict) -> None:
        """Update the matrices of a group, all of one shape at once. If a matrix is sharded, each device gathers the
        whole update and applies its own shard of it."""
        shapes: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        sharded: list[tuple[Tensor, Tensor]] = []  # a sharded matrix, and its whole update
        for p, part in zip(group["params"], group["parts"], strict=True):
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["momentum"], state["step"] = torch.zeros_like(p), torch.tensor(0.0)
            state["step"] += 1  # Adam.__setstate__ reads it when a state is loaded
            state["momentum"].lerp_(p.grad, 1 - group["momentum"])
            update = p.grad.lerp(state["momentum"], group["momentum"])  # Nesterov's
            p.mul_(1 - group["lr"] * group["weight_decay"])
            changed: Tensor = p
            if isinstance(p, DTensor):
                update = update.full_tensor()
                changed = torch.zeros_like(update)
                sharded.append((p, changed))
            for piece in zip(changed.split(part), update.split(part), strict=True):
                shapes.setdefault(tuple(piece[0].shape), []).append(piece)
        for (m, n), pieces in shapes.items():
            stacked = torch.stack([update for _, update in pieces])
            steps = orthogonalize(stacked.to(iteration_dtype(stacked.device)), group["iterations"])
            for (p, _), step in zip(pieces, steps, strict=True):
                p.sub_(step, alpha=group["lr"] * math.sqrt(max(1, m / n)))
        for p, step in sharded:
            p.add_(shard_like(step, p))


def iteration_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of Muon's iterations: bfloat16, which is enough, on GPUs that have it, and float32 elsewhere,
    since most CPUs only emulate bfloat16."""
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported(False) else torch.float32


OPTIMIZERS = table("optimizer", {"adamw": adamw, "muon": muon})


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the optimizer that the configuration names."""
    return choose("optimizer.kind", config.kind, OPTIMIZERS)(model, config)
