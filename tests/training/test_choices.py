"""What auto stands for depends on the configuration and the kind of device alone, and is kept."""

import pytest
import torch

from headwise.config import GPTConfig, TrainConfig
from headwise.errors import UserError
from headwise.training.choices import check, run_flops, settle


def config(**trainer):
    made = TrainConfig(model=GPTConfig(vocab_size=23, block_size=29, n_layer=2, n_head=3, n_embd=18))
    for name, value in trainer.items():
        setattr(made.trainer, name, value)
    return made


def test_a_cpu_trains_in_float32_and_compiles_long_runs_only():
    short, long = config(max_steps=10), config(max_steps=10**9)
    for made in (short, long):
        settle(made, "cpu", 1, None)
    assert short.trainer.precision == long.trainer.precision == "32-true"
    assert (short.compile, long.compile) == (False, True)


def test_what_the_user_chose_stays():
    made = config(max_steps=10**9, precision="bf16-mixed")
    made.compile = False
    settle(made, "cpu", 1, None)
    assert (made.trainer.precision, made.compile) == ("bf16-mixed", False)


def test_a_run_that_goes_on_keeps_what_was_decided():
    made = config(max_steps=10**9)
    settle(made, "cpu", 1, {"trainer": {"precision": "64-true"}, "compile": False})
    assert (made.trainer.precision, made.compile) == ("64-true", False)


def test_a_runs_operations_are_six_for_each_weight_and_token_and_those_of_attention():
    made = config(max_steps=7)
    made.data.batch_size = 5
    weights = 2 * (18 * 54 + 18 * 18 + 2 * 18 * 72) + 18 * 23
    per_token = 6 * weights + 12 * 2 * 18 * 29
    assert run_flops(made, devices=3) == per_token * 29 * 5 * 3 * 7


@pytest.mark.parametrize("wrong", ["sometimes", None, 2])
def test_another_value_of_compile_is_refused(wrong):
    made = config()
    made.compile = wrong
    with pytest.raises(UserError, match=f"compile={wrong} is none of auto, true, false"):
        check(made)


def test_measured_peak_is_that_of_a_real_product():
    from headwise.distributed.estimate import matmul_peak

    assert 1e8 < matmul_peak(torch.device("cpu"), torch.float32) < 1e15
