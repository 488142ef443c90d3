"""A model made ready for inference is the same function."""

import pytest
import torch
from torch.nn import functional as F

from headwise.errors import UserError
from headwise.generation.fast import LARGE, MKLDNN, bfloat16, float32, for_inference, onednn
from headwise.generation.generate import generate_tokens
from headwise.generation.sampling import Sampling
from headwise.model.kv_cache import KVCache
from headwise.model.layers import NORMS
from headwise.model.position import POSITIONS
from tests.presets import PRESETS
from tests.small import randomize, small_model

KINDS = [
    *(PRESETS["gpt2"] | {"position": position} for position in POSITIONS),
    *(PRESETS["qwen3"] | {"norm": norm, "n_kv_head": 1} for norm in NORMS),
    *(
        PRESETS["qwen3"] | {"mlp": mlp, "attention": attention}
        for mlp, attention in [("none", "relu"), ("relu2", "softmax")]
    ),
]
IDS = torch.randint(53, (3, 11), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: "-".join(map(str, kinds.values())))
@torch.no_grad()
def test_for_inference_gives_the_logits_of_the_model(kinds):
    model = randomize(small_model("qwen3", vocab_size=53, dropout=0.3, **kinds)).eval()
    quick, cache = for_inference(model), KVCache(model.config, batch_size=3)
    assert torch.allclose(quick(IDS), model(IDS), atol=1e-6)
    parts = torch.cat([quick(part, cache=cache) for part in IDS.split(4, dim=1)], dim=1)
    assert torch.allclose(parts, model(IDS), atol=1e-5)


@torch.no_grad()
def test_float32_products_of_large_matrices_equal_linear_for_any_batch():
    linear = torch.nn.Linear(521, 541)
    assert linear.weight.numel() > LARGE
    for x in (torch.randn(1, 1, 521), torch.randn(3, 1, 521), torch.randn(2, 37, 521), torch.randn(7, 521)):
        assert torch.allclose(float32(linear)(x), linear(x), atol=1e-5)
        linear.bias = None


def test_for_inference_shares_weights_and_leaves_the_model_trainable():
    model = small_model(vocab_size=53, dropout=0.3).train()
    quick = for_inference(model)
    assert not quick.training
    assert model.training
    theirs = dict(quick.named_parameters())
    assert all(theirs[name].data_ptr() == weight.data_ptr() for name, weight in model.named_parameters())
    model(IDS).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("preset", PRESETS)
def test_for_inference_generates_the_same_text(preset):
    model = small_model(preset)
    texts, sampling = [[3, 1, 4], [1, 5, 9, 2, 6]], Sampling(temperature=0.9, top_p=0.9)
    one, other = (
        [ids.tolist() for ids, _ in generate_tokens(m, texts, 50, sampling, [0, 1])]
        for m in (model, for_inference(model))
    )
    assert one == other


@torch.no_grad()
def test_bfloat16_product_rounds_weights_and_inputs():
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(521, 541), torch.randn(3, 7, 521)
    exact = F.linear(x.bfloat16().double(), linear.weight.bfloat16().double(), linear.bias.bfloat16().double())
    given = bfloat16(linear)(x)
    assert given.dtype == torch.float32
    assert torch.allclose(given.double(), exact, rtol=2**-8, atol=1e-3)  # the result is rounded too


@torch.no_grad()
def test_bfloat16_changes_logits_a_little():
    model = randomize(small_model(vocab_size=53))
    exact = model(IDS)
    off = (for_inference(model, "bfloat16")(IDS) - exact).abs().mean() / exact.std()
    assert 1e-5 < off < 0.05


def test_for_inference_names_an_unknown_precision():
    with pytest.raises(UserError, match="precision=bfloat15 is none of float32, bfloat16; did you mean bfloat16"):
        for_inference(small_model(), "bfloat15")


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
@torch.no_grad()
def test_private_mkldnn_operators_of_torch_exist_and_multiply():
    assert isinstance(MKLDNN._is_mkldnn_bf16_supported(), bool)
    linear, x = torch.nn.Linear(37, 41), torch.randn(5, 37)
    assert torch.allclose(onednn(linear.weight, linear.bias)(x), linear(x), atol=1e-5)
    assert torch.allclose(onednn(linear.weight, None)(x), F.linear(x, linear.weight), atol=1e-5)
