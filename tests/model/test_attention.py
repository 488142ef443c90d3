"""Attention: the textbook's numbers, torch's kernels, and the claims that every tutorial makes."""

import math

import pytest
import torch
from torch.nn import functional as F

from headwise.model.attention import (
    CausalSelfAttention,
    causal_mask,
    fold,
    fused_attention,
    reference_attention,
    unfold,
)
from headwise.model.config import GPTConfig
from headwise.model.position import NoPosition

B, H, G, T, D = 2, 6, 3, 11, 7


def qkv(heads=H, groups=G, n_query=T, n_key=T, seed=0):
    random = torch.Generator().manual_seed(seed)
    shapes = [(B, heads, n_query, D), (B, groups, n_key, D), (B, groups, n_key, D)]
    return [torch.randn(shape, generator=random, requires_grad=True) for shape in shapes]


def test_reference_gives_the_numbers_computed_by_hand():
    q = torch.tensor([[1.0, 0.0], [0.0, 2.0]])[None, None]
    k = torch.tensor([[1.0, 1.0], [0.0, 1.0]])[None, None]
    v = torch.tensor([[10.0, 0.0], [0.0, 20.0]])[None, None]
    z, pattern = reference_attention(q, k, v)
    # The second query scores both keys 2 / sqrt(2); the first query may see the first key alone.
    assert torch.allclose(pattern[0, 0], torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert torch.allclose(z[0, 0], torch.tensor([[10.0, 0.0], [5.0, 10.0]]))


def test_one_token_view_equals_matrix_view():
    q, k, v = qkv(groups=H)
    z, _ = reference_attention(q, k, v)
    t = 5
    scores = torch.stack([q[1, 2, t] @ k[1, 2, j] for j in range(t + 1)]) / math.sqrt(D)
    one = sum(weight * v[1, 2, j] for j, weight in enumerate(scores.softmax(0)))
    assert torch.allclose(z[1, 2, t], one, atol=1e-6)


@pytest.mark.parametrize(("groups", "n_query"), [(H, T), (G, T), (1, T), (G, 5), (H, 1)])
def test_fused_equals_reference_forward_and_backward(groups, n_query):
    ours, theirs = (qkv(groups=groups, n_query=n_query) for _ in range(2))
    z, pattern = reference_attention(*ours)
    fused, nothing = fused_attention(*theirs)
    assert nothing is None
    assert pattern.shape == (B, H, n_query, T)
    assert torch.allclose(z, fused, atol=1e-6)
    weight = torch.randn_like(z)
    (z * weight).sum().backward()
    (fused * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5)


def test_reference_equals_torch_multihead_attention_weights_included():
    torch.manual_seed(0)
    width = H * D
    theirs = torch.nn.MultiheadAttention(width, H, batch_first=True)
    ours = CausalSelfAttention(GPTConfig(n_embd=width, n_head=H))
    ours.qkv.weight.data, ours.qkv.bias.data = theirs.in_proj_weight.data, theirs.in_proj_bias.data
    ours.out.load_state_dict(theirs.out_proj.state_dict())
    ours.attend = ours.reference
    x = torch.randn(B, T, width)
    mask = ~causal_mask(T, T)
    expected, weights = theirs(x, x, x, attn_mask=mask, average_attn_weights=False)
    q, k, v = (fold(part, H) for part in ours.qkv(x).split(ours.sizes, dim=-1))
    assert torch.allclose(ours(x, NoPosition(GPTConfig()), torch.arange(T)), expected, atol=1e-6)
    assert torch.allclose(reference_attention(q, k, v)[1], weights, atol=1e-6)


def test_concatenation_times_w_o_is_the_sum_of_the_heads_own_updates():
    torch.manual_seed(0)
    layer = CausalSelfAttention(GPTConfig(n_embd=H * D, n_head=H))
    z = torch.randn(B, H, T, D)
    slices = layer.out.weight.split(D, dim=1)  # W_O's columns, one slice for each head
    by_head = sum(z[:, h] @ slices[h].T for h in range(H)) + layer.out.bias
    assert torch.allclose(layer.out(unfold(z)), by_head, atol=1e-5)


def test_unfold_undoes_fold():
    x = torch.randn(B, T, H * D)
    assert torch.equal(unfold(fold(x, H)), x)
    assert torch.equal(fold(x, H)[:, 1], x[..., D : 2 * D])


def test_rows_of_the_pattern_sum_to_one_and_the_future_weighs_nothing():
    _, pattern = reference_attention(*qkv())
    assert torch.allclose(pattern.sum(-1), torch.ones(B, H, T))
    assert torch.equal(pattern.triu(1), torch.zeros_like(pattern))


def test_query_shorter_than_the_keys_stands_at_their_end():
    q, k, v = qkv()
    whole, _ = reference_attention(q, k, v)
    tail, _ = reference_attention(q[:, :, -3:], k, v)
    assert torch.allclose(whole[:, :, -3:], tail, atol=1e-6)


def test_dropout_drops_weights_of_the_pattern_and_leaves_the_pattern_reported_whole():
    q, k, v = qkv()
    torch.manual_seed(3)
    z, pattern = reference_attention(q, k, v, dropout=0.5)
    torch.manual_seed(3)
    dropped = F.dropout(pattern, 0.5)
    assert torch.allclose(z, dropped @ v.repeat_interleave(H // G, dim=1), atol=1e-6)
    assert torch.allclose(pattern.sum(-1), torch.ones(B, H, T))
