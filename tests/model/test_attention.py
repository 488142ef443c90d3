"""Attention: the textbook's numbers, torch's kernels, and the claims that every tutorial makes."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from headwise.config import GPTConfig
from headwise.inspection.hooks import capture
from headwise.model.attention import (
    SHORT,
    CausalSelfAttention,
    causal_mask,
    fused_attention,
    merge_heads,
    reference_attention,
    relu,
    split_heads,
)
from headwise.model.gpt import GPT
from headwise.model.position import Position

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


def test_scores_are_divided_by_the_root_of_the_width():
    q, k, v = qkv(groups=H)
    _, pattern = reference_attention(q, k, v)
    ratio = pattern[0, 1, 9, 3] / pattern[0, 1, 9, 4]  # the softmax's denominator cancels
    by_hand = torch.exp((q[0, 1, 9] @ k[0, 1, 3] - q[0, 1, 9] @ k[0, 1, 4]) / math.sqrt(D))
    assert torch.allclose(ratio, by_hand)


def test_query_key_and_value_are_projections_of_embedding_plus_position():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=23, block_size=T, n_embd=H * D, n_head=H, n_layer=1))
    ids = torch.randint(23, (B, T))
    x = model.embedding.weight[ids] + model.position.table.weight  # [B, T, C]
    x = torch.nn.functional.layer_norm(x, (H * D,))
    w_q, w_k, w_v = model.blocks[0].attention.qkv.weight.split(H * D)
    with capture(model) as maps:
        model(ids)
    for seen, w in ((maps[0].q, w_q), (maps[0].k, w_k), (maps[0].v, w_v)):
        assert torch.allclose(seen[:, 2], x @ w[2 * D : 3 * D].T, atol=1e-6)  # head 2's rows


def test_one_token_view_equals_matrix_view():
    q, k, v = qkv(groups=H)
    z, _ = reference_attention(q, k, v)
    t = 5
    scores = torch.stack([q[1, 2, t] @ k[1, 2, j] for j in range(t + 1)]) / math.sqrt(D)
    one = sum(weight * v[1, 2, j] for j, weight in enumerate(scores.softmax(0)))
    assert torch.allclose(z[1, 2, t], one, atol=1e-6)


def agree(ours, theirs, ours_in, theirs_in):
    """Whether two results and the gradients of what went into them are the same."""
    assert torch.allclose(ours, theirs, atol=1e-6)
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    for a, b in zip(ours_in, theirs_in, strict=True):
        assert torch.isfinite(a.grad).all()
        assert torch.allclose(a.grad, b.grad, atol=1e-5)


@pytest.mark.parametrize(("groups", "n_query"), [(H, T), (G, T), (1, T), (G, 5), (H, 1)])
def test_fused_equals_reference_forward_and_backward(groups, n_query):
    ours, theirs = (qkv(groups=groups, n_query=n_query) for _ in range(2))
    z, pattern = reference_attention(*ours)
    fused, nothing = fused_attention(*theirs)
    assert nothing is None
    assert pattern.shape == (B, H, n_query, T)
    agree(z, fused, ours, theirs)


def test_fused_equals_reference_where_sequences_are_long():
    ours, theirs = (qkv(groups=H, n_query=SHORT + 7, n_key=SHORT + 7) for _ in range(2))
    agree(reference_attention(*ours)[0], fused_attention(*theirs)[0], ours, theirs)


def left_padded(*lengths):
    """[B, 1, T, T]: causal, with the sequences at the right end of their rows."""
    return causal_mask(T, T) & (torch.arange(T) >= T - torch.tensor(lengths)[:, None, None, None])


@pytest.mark.parametrize("attend", [reference_attention, fused_attention])
@pytest.mark.parametrize(("groups", "mask"), [(H, None), (G, None), (H, left_padded(T, 4)), (G, left_padded(3, 7))])
def test_attention_equals_torch_scaled_dot_product_attention(attend, groups, mask):
    ours, theirs = (qkv(groups=groups) for _ in range(2))
    visible = causal_mask(T, T) if mask is None else mask
    q, k, v = theirs
    scores = torch.where(visible, 0.0, -math.inf)
    k, v = (x.repeat_interleave(H // groups, dim=1) for x in (k, v))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=scores)
    agree(attend(*ours, mask)[0], expected, ours, theirs)


@pytest.mark.parametrize("attend", [reference_attention, partial(reference_attention, normalize=relu), fused_attention])
def test_query_without_visible_keys_receives_zeros_and_sends_no_gradient(attend):
    inputs = qkv()
    z, pattern = attend(*inputs, left_padded(4, T))
    assert torch.equal(z[0, :, : T - 4], torch.zeros(H, T - 4, D))
    assert z[0, :, T - 4 :].any()
    assert pattern is None or torch.equal(pattern[0, :, : T - 4], torch.zeros(H, T - 4, T))
    z.sum().backward()
    for x in inputs:
        assert torch.isfinite(x.grad).all()
        assert not x.grad[0, :, : T - 4].any()


@pytest.mark.parametrize("attend", [reference_attention, fused_attention])
def test_keys_and_values_may_come_from_another_sequence(attend):
    """Cross-attention: torch's own, with 5 queries over the 11 tokens of another text, every one in sight."""
    torch.manual_seed(0)
    width, n_query = H * D, 5
    theirs = torch.nn.MultiheadAttention(width, H, batch_first=True)
    x, other = torch.randn(B, n_query, width), torch.randn(B, T, width)
    expected, weights = theirs(x, other, other, average_attn_weights=False)
    w_q, w_k, w_v = theirs.in_proj_weight.split(width)
    q, k, v = (split_heads(source @ w.T, H) for source, w in ((x, w_q), (other, w_k), (other, w_v)))
    z, pattern = attend(q, k, v, torch.ones(n_query, T, dtype=torch.bool))
    assert torch.allclose(theirs.out_proj(merge_heads(z)), expected, atol=1e-6)
    assert pattern is None or torch.allclose(pattern, weights, atol=1e-6)


@pytest.mark.parametrize("attend", [reference_attention, fused_attention])
def test_values_may_have_a_width_of_their_own(attend):
    q, k, _ = qkv(groups=H)
    v = torch.randn(B, H, T, 3)
    z, _ = attend(q, k, v)
    _, pattern = reference_attention(q, k, v)
    assert z.shape == (B, H, T, 3)
    assert torch.allclose(z, pattern @ v, atol=1e-6)


def test_with_sharp_scores_attention_is_a_hash_table_lookup():
    """Orthogonal keys and queries a hundred times as long: each query receives the value stored under its key."""
    keys = torch.linalg.qr(torch.randn(T, T, generator=torch.Generator().manual_seed(0)))[0]
    table = torch.randn(T, 3)
    order = torch.randperm(T)
    q, k, v = (x[None, None] for x in (100 * keys[order], keys, table))
    z, pattern = reference_attention(q, k, v, torch.ones(T, T, dtype=torch.bool))
    assert torch.allclose(z[0, 0], table[order])
    assert torch.equal(pattern[0, 0].argmax(-1), order)


def test_relu_weights_are_positive_scores_over_the_number_of_visible_keys():
    scores = torch.tensor([[3.0, -math.inf, -math.inf], [-1.0, 4.0, -math.inf], [6.0, -2.0, 3.0]])
    expected = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [2.0, 0.0, 1.0]])
    assert torch.equal(relu(scores), expected)
    q, k, v = qkv(groups=H)
    z, pattern = reference_attention(q, k, v, normalize=relu)
    by_hand = (q @ k.transpose(-2, -1) / math.sqrt(D)).relu().tril() / torch.arange(1, T + 1)[:, None]
    assert torch.allclose(pattern, by_hand, atol=1e-6)
    assert torch.allclose(z, by_hand @ v, atol=1e-6)


def test_attention_equals_torch_multihead_attention_weights_included():
    torch.manual_seed(0)
    width, mask = H * D, ~causal_mask(T, T)
    theirs = torch.nn.MultiheadAttention(width, H, batch_first=True)
    ours = CausalSelfAttention(GPTConfig(n_embd=width, n_head=H).resolved())
    ours.qkv.weight.data, ours.qkv.bias.data = theirs.in_proj_weight.data.clone(), theirs.in_proj_bias.data.clone()
    ours.out.load_state_dict(theirs.out_proj.state_dict())
    x = torch.randn(B, T, width)
    expected, weights = theirs(x, x, x, attn_mask=mask, average_attn_weights=False)
    expected.square().sum().backward()
    for body in (ours.reference, ours.attend):
        ours.attend = body
        ours.zero_grad()
        result = ours(x, Position(GPTConfig()), torch.arange(T))
        result.square().sum().backward()
        assert torch.allclose(result, expected, atol=1e-6)
        assert torch.allclose(ours.qkv.weight.grad, theirs.in_proj_weight.grad, atol=1e-5)
        assert torch.allclose(ours.qkv.bias.grad, theirs.in_proj_bias.grad, atol=1e-5)
        assert torch.allclose(ours.out.weight.grad, theirs.out_proj.weight.grad, atol=1e-5)
    q, k, v = (split_heads(part, H) for part in ours.qkv(x).split(ours.widths, dim=-1))
    assert torch.allclose(reference_attention(q, k, v)[1], weights, atol=1e-6)


def test_concatenation_times_w_o_is_the_sum_of_the_heads_own_updates():
    torch.manual_seed(0)
    layer = CausalSelfAttention(GPTConfig(n_embd=H * D, n_head=H).resolved())
    z = torch.randn(B, H, T, D)
    slices = layer.out.weight.split(D, dim=1)  # W_O's columns, one slice for each head
    by_head = sum(z[:, h] @ slices[h].T for h in range(H)) + layer.out.bias
    assert torch.allclose(layer.out(merge_heads(z)), by_head, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_attention_adds_the_sum_of_the_heads_results_to_the_embedding(bias):
    """x' = x + dE_1 + ... + dE_h (+ b_O), in the block's own numbers."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=23, block_size=T, n_embd=H * D, n_head=H, n_layer=1, mlp="none", bias=bias))
    torch.nn.init.normal_(model.blocks[0].attention.out.weight)
    streams = []
    model.blocks[0].register_forward_hook(lambda module, inputs, output: streams.extend((inputs[0], output)))
    with capture(model) as maps:
        model(torch.randint(23, (B, T)))
    before, after = streams
    b_o = model.blocks[0].attention.out.bias if bias else 0
    assert maps[0].result.shape == (B, H, T, H * D)
    assert torch.allclose(after, before + maps[0].result.sum(1) + b_o, atol=1e-5)


def test_merge_heads_undoes_split_heads():
    x = torch.randn(B, T, H * D)
    assert torch.equal(merge_heads(split_heads(x, H)), x)
    assert torch.equal(split_heads(x, H)[:, 1], x[..., D : 2 * D])


def test_rows_of_the_pattern_sum_to_one_and_the_future_weighs_nothing():
    _, pattern = reference_attention(*qkv())
    assert torch.allclose(pattern.sum(-1), torch.ones(B, H, T))
    assert torch.equal(pattern.triu(1), torch.zeros_like(pattern))


def test_query_shorter_than_the_keys_is_aligned_with_their_end():
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
