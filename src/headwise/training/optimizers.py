"""Optimizers, by name: adamw, muon."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from headwise.config import OptimizerConfig
from headwise.distributed.strategies import part_of
from headwise.errors import choose
from headwise.model.attention import CausalSelfAttention


def parameter_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict]:
    """Decay for matrices, embeddings among them; none for vectors, the biases and the norms' scales."""
    matrices = [p for p in parameters if p.dim() >= 2]
    vectors = [p for p in parameters if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), all parameters of a group in one kernel."""
    groups = parameter_groups(list(model.parameters()), config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


def muon(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    matrices = {name: p for name, p in model.named_parameters() if name.startswith("blocks.") and p.dim() == 2}
    # W_Q, W_K and W_V are kept in one matrix but are three.
    sizes = {id(m.qkv.weight): m.sizes for m in model.modules() if isinstance(m, CausalSelfAttention)}
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


def orthogonalized(x: Tensor, iterations: int) -> Tensor:
    """Matrices x [N, m, n] with all their singular values brought near 1: U V^T of U S V^T, by Newton and Schulz's
    iteration, in the arithmetic of x."""
    turned = x.size(-2) > x.size(-1)
    x = x.mT if turned else x  # the product below is of the shorter side
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if turned else x


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al. 2024) in the groups marked so, AdamW in the others: one optimizer, one state.

    A step of Muon is along the orthogonalized momentum of a matrix, so that it changes what the matrix does by the same
    amount in every direction.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        # Before the groups are parted: Lightning's closure sets the gradients to zero, and has to see all of them.
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        everything = self.param_groups
        self.param_groups = [group for group in everything if not group.get("muon")]
        try:
            super().step()  # AdamW's, which goes through param_groups
        finally:
            self.param_groups = everything
        for group in everything:
            if group.get("muon"):
                self.muon_step(group)
        return loss

    def muon_step(self, group: dict) -> None:
        """Take Muon's step for a group, all matrices of one shape at once. Where devices keep parts of a matrix, each
        gathers all of its update, and applies its own part of the step."""
        shapes: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        in_parts: list[tuple[Tensor, Tensor]] = []  # a matrix kept in parts, and the whole of its step
        for p, part in zip(group["params"], group["parts"], strict=True):
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["momentum"], state["step"] = torch.zeros_like(p), torch.tensor(0.0)
            state["step"] += 1  # AdamW's loading looks for it
            state["momentum"].lerp_(p.grad, 1 - group["momentum"])
            update = p.grad.lerp(state["momentum"], group["momentum"])  # Nesterov's
            p.mul_(1 - group["lr"] * group["weight_decay"])
            changed: Tensor = p
            if isinstance(p, DTensor):
                update = update.full_tensor()
                changed = torch.zeros_like(update)
                in_parts.append((p, changed))
            for piece in zip(changed.split(part), update.split(part), strict=True):
                shapes.setdefault(tuple(piece[0].shape), []).append(piece)
        for (m, n), pieces in shapes.items():
            stacked = torch.stack([update for _, update in pieces])
            steps = orthogonalized(stacked.to(arithmetic(stacked.device)), group["iterations"])
            for (p, _), step in zip(pieces, steps, strict=True):
                p.sub_(step, alpha=group["lr"] * math.sqrt(max(1, m / n)))
        for p, step in in_parts:
            p.add_(part_of(step, p))


def arithmetic(device: torch.device) -> torch.dtype:
    """What Muon iterates in: bfloat16 on GPUs that have it, where it is enough, and float32 elsewhere, since most CPUs
    only imitate bfloat16."""
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported(False) else torch.float32


OPTIMIZERS = {"adamw": adamw, "muon": muon}


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer that the configuration names."""
    return choose("optimizer.kind", config.kind, OPTIMIZERS)(model, config)
