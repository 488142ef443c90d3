"""Resuming: the same run is recognised whichever way its configuration was written down."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from headwise.config import GPTConfig, TrainConfig
from headwise.errors import UserError
from headwise.training.resolve import resolve
from headwise.training.resume import check_same_run


def test_check_same_run_takes_a_saved_null_for_the_number_that_it_stands_for():
    config = TrainConfig(model=GPTConfig(n_head=3, n_embd=18).resolved())
    run = resolve(config, vocab_size=23, n_devices=1, device="cpu")
    model = asdict(run.model) | {"n_kv_head": None, "head_dim": None, "n_inner": None}
    saved = {"headwise": {"about": {"data": "d", "config": run.as_dict() | {"model": model}}}}
    check_same_run(saved, run, "d", Path("last.ckpt"))
    other = replace(run, model=replace(run.model, n_kv_head=1))
    with pytest.raises(UserError, match=r"model\.n_kv_head=1 differs from 3 in last\.ckpt"):
        check_same_run(saved, other, "d", Path("last.ckpt"))
