"""Normalisation of the residual stream, by name: layernorm, rmsnorm."""

from __future__ import annotations

from torch import nn

from headwise.model.config import GPTConfig


def layer_norm(width: int, config: GPTConfig) -> nn.Module:
    """(x - mean) / sqrt(variance + eps) * weight + bias (Ba et al. 2016)."""
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.bias)


def rms_norm(width: int, config: GPTConfig) -> nn.Module:
    """x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019)."""
    return nn.RMSNorm(width, eps=config.norm_eps)


NORMS = {"layernorm": layer_norm, "rmsnorm": rms_norm}
