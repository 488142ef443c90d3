"""Resolving a configuration: what auto stands for depends on it and on the kind of device alone, and is kept."""

from dataclasses import FrozenInstanceError, asdict, replace

import pytest
import torch

from headwise.config import DataConfig, GPTConfig, TrainConfig, TrainerConfig
from headwise.errors import UserError
from headwise.training.resolve import check_choices, initial_model_config, resolve, training_flops

MODEL = GPTConfig(block_size=29, n_layer=2, n_head=3, n_embd=18)
CPU = {"vocab_size": 23, "n_devices": 1, "device": "cpu"}


def config(compile="auto", **trainer):
    return TrainConfig(model=replace(MODEL), compile=compile, trainer=TrainerConfig(**trainer))


def test_resolve_on_a_cpu_gives_float32_and_compiles_long_runs_only():
    short, long = (resolve(config(max_steps=steps), **CPU) for steps in (10, 10**9))
    assert short.trainer.precision == long.trainer.precision == "32-true"
    assert (short.compile, long.compile) == (False, True)


def test_resolve_keeps_what_the_user_chose():
    run = resolve(config(max_steps=10**9, precision="bf16-mixed", compile=False), **CPU)
    assert (run.trainer.precision, run.compile) == ("bf16-mixed", False)


def test_resolve_keeps_what_a_resumed_run_decided():
    before = {"trainer": {"precision": "64-true"}, "compile": False, "data": {"global_batch_size": 96}}
    run = resolve(config(max_steps=10**9), **CPU, earlier={"config": before, "devices": 1})
    assert (run.trainer.precision, run.compile, run.data.global_batch_size) == ("64-true", False, 32)


def test_resolve_keeps_the_batch_of_a_run_that_resumes_on_fewer_devices():
    before = {"trainer": {"precision": "32-true"}, "compile": False, "data": {"global_batch_size": 96}}
    run = resolve(config(), **CPU, earlier={"config": before, "devices": 3})
    assert (run.data.global_batch_size, run.accumulate, run.tokens_per_step) == (96, 3, 96 * 29)


def test_resolve_takes_the_vocabulary_of_the_tokenizer_and_refuses_a_smaller_one():
    assert resolve(config(), **CPU).model.vocab_size == 23
    larger, smaller = (TrainConfig(model=replace(MODEL, vocab_size=size)) for size in (24, 22))
    assert resolve(larger, **CPU).model.vocab_size == 24
    with pytest.raises(UserError, match=r"model\.vocab_size=22 is below the tokenizer's 23; leave it out"):
        resolve(smaller, **CPU)


def test_resolve_changes_nothing_that_it_is_given_and_its_result_is_frozen():
    given = config()
    before = asdict(given)
    run = resolve(given, **CPU)
    assert asdict(given) == before
    assert run.as_dict().keys() == before.keys()
    with pytest.raises(FrozenInstanceError):
        run.seed = 2


def test_training_flops_are_six_for_each_weight_and_token_and_those_of_attention():
    made = TrainConfig(model=replace(MODEL), data=DataConfig(batch_size=5), trainer=TrainerConfig(max_steps=7))
    weights = 2 * (18 * 54 + 18 * 18 + 2 * 18 * 72) + 18 * 23
    per_token = 6 * weights + 12 * 2 * 18 * 29
    run = resolve(made, vocab_size=23, n_devices=3, device="cpu")
    assert training_flops(run) == per_token * 29 * 5 * 3 * 7


@pytest.mark.parametrize("wrong", ["sometimes", None, 2])
def test_check_choices_refuses_another_value_of_compile(wrong):
    with pytest.raises(UserError, match=f"compile={wrong} is none of auto, true, false"):
        check_choices(config(compile=wrong))


def test_initial_model_config_is_theirs_but_for_dropout_and_a_shorter_block():
    theirs = replace(MODEL, vocab_size=31, norm="rmsnorm", dropout=0.3, block_size=37)
    wanted = GPTConfig(block_size=17, dropout=0.1)
    assert initial_model_config(wanted, theirs, [], "x") == replace(theirs, block_size=17, dropout=0.1)


@pytest.mark.parametrize(
    ("overrides", "wrong"),
    [
        (["model.n_layer=4"], "model.n_layer=4 differs from 2 in init_from=x"),
        (["model=qwen3"], "model.norm=layernorm differs from rmsnorm in init_from=x"),
        (["model.init=zero_output"], "model.init=scaled_normal has no meaning with init_from=x; leave it out"),
        (["model.block_size=128"], "model.block_size=128 is above the 29 of init_from=x"),
        (["tokenizer=bpe"], "tokenizer: the model of init_from=x has its own tokenizer; leave tokenizer out"),
    ],
)
def test_initial_model_config_refuses_overrides_that_ask_for_another_model(overrides, wrong):
    with pytest.raises(UserError, match=wrong):
        initial_model_config(GPTConfig(), replace(MODEL, norm="rmsnorm"), overrides, "x")


def test_initial_model_config_accepts_a_null_that_stands_for_their_number():
    wanted, theirs = GPTConfig(block_size=29), MODEL.resolved()
    assert initial_model_config(wanted, theirs, ["model.n_kv_head=null"], "x") == theirs
    with pytest.raises(UserError, match=r"model\.n_kv_head=3 differs from 1 in init_from=x"):
        initial_model_config(wanted, replace(theirs, n_kv_head=1), ["model.n_kv_head=null"], "x")


def test_measured_peak_is_that_of_a_real_product():
    from headwise.distributed.estimate import matmul_peak

    assert 1e8 < matmul_peak(torch.device("cpu"), torch.float32) < 1e15
