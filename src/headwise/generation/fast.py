"""A model made ready for generation: the same function, in fewer and quicker steps.

    model = for_inference(checkpoint.model)                           # float32: what the model itself gives
    model = for_inference(checkpoint.model, precision="bfloat16")     # half the weights to read, and less exact

A new token meets every weight once, so that reading the weights is nearly all the work in a large model, and calling
its many parts in a small one. Here large matrices are laid out as oneDNN wants them, which reads them with all cores,
and every layer becomes a plain function in the place of a module. The model given keeps its own weights; the copy is
for running forward only: it neither trains nor has its maps captured.

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
from headwise.model.position import NoPosition

Layer = Callable[[Tensor], Tensor]
LARGE = 1 << 18  # weights from which on oneDNN's product is quicker, for all that a call of it costs


def float32(linear: nn.Linear) -> Layer:
    """x W^T + b in float32."""
    weight, bias = linear.weight.detach(), linear.bias
    if weight.numel() >= LARGE and has_onednn(weight):
        return onednn(weight, bias)
    return partial(F.linear, weight=weight, bias=bias)


def bfloat16(linear: nn.Linear) -> Layer:
    """x W^T + b with x, W, b and the result rounded to bfloat16, 8 bits of precision; the sum is taken in float32."""
    weight, bias = linear.weight.detach().bfloat16(), None if linear.bias is None else linear.bias.bfloat16()
    product: Layer = partial(F.linear, weight=weight, bias=bias)
    if has_onednn(weight) and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        product = onednn(weight, bias)
    return lambda x: product(x.bfloat16()).float()


def has_onednn(weight: Tensor) -> bool:
    """Whether oneDNN can multiply with this matrix."""
    return weight.device.type == "cpu" and torch.backends.mkldnn.is_available()


def onednn(weight: Tensor, bias: Tensor | None) -> Layer:
    """x W^T + b by oneDNN, as torch's own compiler calls it, with W [O, I] laid out for a few rows of x."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 1)
    return lambda x: torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")


PRECISIONS = {"float32": float32, "bfloat16": bfloat16}


def for_inference(model: GPT, precision: str = "float32") -> GPT:
    """A copy of the model that shares its weights, or holds them in `precision` (float32, bfloat16), where every
    layer is the plain function that it is in eval mode. Raises UserError for a precision there is not."""
    linear = choose("precision", precision, PRECISIONS)
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    quick = copy.deepcopy(model, shared).eval()
    with torch.inference_mode():
        flatten(quick, linear)
    return quick


def flatten(module: nn.Module, linear: Callable[[nn.Linear], Layer]) -> None:
    """Put in the place of each part of the module the function that it is. Tables and positions stay, since more is
    asked of them than to be called."""
    for name, part in module.named_children():
        flatten(part, linear)
        if isinstance(part, nn.ModuleList):
            vars(module)[name] = [each.forward for each in part]
        elif isinstance(part, nn.Linear):
            vars(module)[name] = linear(part)
        elif isinstance(part, nn.Identity | nn.Dropout):
            vars(module)[name] = unchanged
        elif not isinstance(part, nn.Embedding | NoPosition):
            vars(module)[name] = part.forward


def unchanged(x: Tensor) -> Tensor:
    """What dropout is when nothing is trained."""
    return x
