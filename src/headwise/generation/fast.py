"""Copy a model for inference, with the same logits in less time.

    model = for_inference(checkpoint.model)                           # float32: the model's own logits
    model = for_inference(checkpoint.model, precision="bfloat16")     # weights of half the size, less exact

A new token needs every weight once: generation with a large model takes the time of reading its weights, with a small
one the time of calling its modules. The copy therefore has large matrices in the layout that oneDNN reads with all
cores, and plain functions in place of modules. It has a forward pass only: use the model itself for training and for
capturing attention.

Dimensions: I input and O output features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headwise.errors import choose
from headwise.model.gpt import GPT
from headwise.model.position import Position

Layer = Callable[[Tensor], Tensor]
LARGE = 1 << 18  # number of weights from which oneDNN's product is faster, although a call of it costs more


def float32(linear: nn.Linear) -> Layer:
    """Return a function x -> x W^T + b in float32."""
    weight, bias = linear.weight.detach(), linear.bias
    if weight.numel() >= LARGE and has_onednn(weight):
        return onednn(weight, bias)
    return partial(F.linear, weight=weight, bias=bias)


def bfloat16(linear: nn.Linear) -> Layer:
    """Return a function x -> x W^T + b with x, W, b and the result rounded to bfloat16, which has 8 bits of precision;
    products are added up in float32."""
    weight, bias = linear.weight.detach().bfloat16(), None if linear.bias is None else linear.bias.bfloat16()
    multiply = onednn(weight, bias) if has_onednn(weight) else partial(F.linear, weight=weight, bias=bias)
    return lambda x: multiply(x.bfloat16()).float()


# torch has no public function for a product with a matrix that oneDNN has laid out in advance. These are the operators
# that torch.compile itself uses; tests/generation/test_fast.py fails if a new torch renames or changes them.
MKLDNN = torch.ops.mkldnn


def has_onednn(weight: Tensor) -> bool:
    """Return whether oneDNN can multiply with this matrix."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype != torch.bfloat16 or MKLDNN._is_mkldnn_bf16_supported()


def onednn(weight: Tensor, bias: Tensor | None) -> Layer:
    """Return a function x -> x W^T + b that uses oneDNN, with W [O, I] in a layout for a few rows of x."""
    packed = MKLDNN._reorder_linear_weight(weight, 1)
    return lambda x: MKLDNN._linear_pointwise.default(x, packed, bias, "none", [], "")


PRECISIONS = {"float32": float32, "bfloat16": bfloat16}


def for_inference(model: GPT, precision: str = "float32") -> GPT:
    """Return a copy of the model that shares its weights, or has them in `precision` (float32, bfloat16), where every
    layer is a plain function in eval mode. Raise UserError for an unknown precision."""
    linear = choose("precision", precision, PRECISIONS)
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    fast = copy.deepcopy(model, shared).eval()
    with torch.inference_mode():
        replace_modules(fast, linear)
    return fast


def replace_modules(module: nn.Module, linear: Callable[[nn.Linear], Layer]) -> None:
    """Replace each submodule by a function. Embeddings and positions remain, since the model also reads their
    attributes."""
    for name, part in module.named_children():
        if not type(part).__module__.startswith(("torch.", "headwise.")):
            continue  # a plugin's part may read attributes of its own modules
        replace_modules(part, linear)
        if isinstance(part, nn.ModuleList):
            vars(module)[name] = [each.forward for each in part]
        elif isinstance(part, nn.Linear):
            vars(module)[name] = linear(part)
        elif isinstance(part, nn.Identity | nn.Dropout):
            vars(module)[name] = identity
        elif not isinstance(part, nn.Embedding | Position):
            vars(module)[name] = part.forward


def identity(x: Tensor) -> Tensor:
    """Return x: dropout in eval mode, or a norm that is absent."""
    return x
