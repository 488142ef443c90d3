"""The schema: what a null stands for."""

from dataclasses import asdict

import pytest

from headwise.config import GPTConfig


def test_resolved_gptconfig_has_the_numbers_that_nulls_stand_for():
    sizes = GPTConfig(n_embd=42, n_head=3).resolved()
    assert (sizes.n_kv_head, sizes.head_dim, sizes.n_inner) == (3, 14, 168)
    assert GPTConfig(n_embd=42, n_head=3, mlp="swiglu").resolved().n_inner == 112


@pytest.mark.parametrize("given", [{"n_kv_head": 1, "head_dim": 5, "n_inner": 13}, {"head_dim": 7}, {}])
def test_resolved_gptconfig_keeps_what_is_given_and_is_its_own_resolution(given):
    config = GPTConfig(n_embd=41 if given else 42, n_head=3, dropout=0.25, **given)
    sizes = config.resolved()
    assert asdict(sizes) == asdict(config) | {
        name: getattr(sizes, name) for name in ("n_kv_head", "head_dim", "n_inner")
    }
    assert {name: getattr(sizes, name) for name in given} == given
    assert sizes.resolved() == sizes
