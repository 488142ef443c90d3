"""Resolving a configuration: what auto stands for, batches, initial models; and which runs can be resumed."""

from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import pytest

from headwise.config import DataConfig, GPTConfig, TrainConfig, TrainerConfig
from headwise.errors import UserError
from headwise.training.resolve import (
    batch_arithmetic,
    checkpoint_to_resume,
    initial_model_config,
    resolve,
    training_flops,
    validate_choices,
    validate_resume,
    why_finished,
)

MODEL = GPTConfig(block_size=29, n_layer=2, n_head=3, n_embd=18)
CPU = {"vocab_size": 23, "train_tokens": 20011, "n_devices": 1, "device": "cpu"}


def config(compile="auto", **trainer):
    return TrainConfig(model=replace(MODEL), compile=compile, trainer=TrainerConfig(**trainer))


def test_resolve_on_a_cpu_gives_float32_and_compiles_long_runs_only():
    short, long = (resolve(config(max_steps=steps), **CPU) for steps in (10, 10**9))
    assert short.trainer.precision == long.trainer.precision == "32-true"
    assert (short.compile, long.compile) == (False, True)


def test_resolve_keeps_the_users_values():
    run = resolve(config(max_steps=10**9, precision="bf16-mixed", compile=False), **CPU)
    assert (run.trainer.precision, run.compile) == ("bf16-mixed", False)


def test_resolve_keeps_the_values_of_a_resumed_run():
    before = {"trainer": {"precision": "64-true"}, "compile": False, "data": {"global_batch_size": 96}}
    run = resolve(config(max_steps=10**9), **CPU, saved_about={"config": before, "devices": 1})
    assert (run.trainer.precision, run.compile, run.data.global_batch_size) == ("64-true", False, 32)


def test_resolve_keeps_the_batch_of_a_run_that_resumes_on_fewer_devices():
    before = {"trainer": {"precision": "32-true"}, "compile": False, "data": {"global_batch_size": 96}}
    run = resolve(config(), **CPU, saved_about={"config": before, "devices": 3})
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
    run = resolve(made, vocab_size=23, train_tokens=1009, n_devices=3, device="cpu")
    assert training_flops(run) == per_token * 29 * 5 * 3 * 7


@pytest.mark.parametrize("wrong", ["sometimes", None, 2])
def test_validate_choices_refuses_another_value_of_compile(wrong):
    with pytest.raises(UserError, match=f"compile={wrong} is none of auto, true, false"):
        validate_choices(config(compile=wrong))


@pytest.mark.parametrize("key", ["optimizer.kind", "schedule.kind", "trainer.precision"])
def test_validate_choices_refuses_an_unknown_kind(key):
    wrong, (group, name) = config(), key.split(".")
    setattr(getattr(wrong, group), name, "x")
    with pytest.raises(UserError, match=f"{key}=x is none of "):
        validate_choices(wrong)


@pytest.mark.parametrize(("devices", "whole", "forward_passes"), [(1, None, 1), (1, 96, 3), (3, None, 1), (3, 192, 2)])
def test_batch_arithmetic_gives_as_many_forward_passes_as_a_step_needs(devices, whole, forward_passes):
    data = DataConfig(global_batch_size=whole)
    assert batch_arithmetic(data, devices) == (32 * devices * forward_passes, forward_passes)


@pytest.mark.parametrize(("devices", "whole", "each"), [(1, 33, "data.batch_size=32"), (3, 64, "32 x 3 devices")])
def test_batch_arithmetic_refuses_a_batch_that_the_devices_cannot_share(devices, whole, each):
    data = DataConfig(global_batch_size=whole)
    with pytest.raises(UserError, match=rf"data\.global_batch_size={whole} is not divisible by .*{each}$"):
        batch_arithmetic(data, devices)


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


def test_validate_resume_takes_a_saved_null_for_the_number_that_it_stands_for():
    run = resolve(TrainConfig(model=GPTConfig(n_head=3, n_embd=18).resolved()), **CPU)
    model = asdict(run.model) | {"n_kv_head": None, "head_dim": None, "n_inner": None}
    saved = {"headwise": {"about": {"data": "d", "config": run.as_dict() | {"model": model}}}}
    validate_resume(saved, run, "d", Path("last.ckpt"))
    other = replace(run, model=replace(run.model, n_kv_head=1))
    with pytest.raises(UserError, match=r"model\.n_kv_head=1 differs from 3 in last\.ckpt"):
        validate_resume(saved, other, "d", Path("last.ckpt"))


def test_validate_resume_allows_another_batch_size_on_another_number_of_devices_only():
    run = resolve(config(), **CPU)
    saved = {"headwise": {"about": {"data": "d", "config": run.as_dict(), "devices": 1}}}
    other = replace(run, data=replace(run.data, batch_size=16))
    with pytest.raises(UserError, match=r"data\.batch_size=16 differs from 32 in x; give the overrides of the run's"):
        validate_resume(saved, other, "d", Path("x"))
    validate_resume(saved, replace(other, n_devices=2), "d", Path("x"))
    with pytest.raises(
        UserError, match="data: the text, its split or its tokenizer differs from x; give the overrides"
    ):
        validate_resume(saved, run, "e", Path("x"))


def test_checkpoint_to_resume_is_the_last_of_a_run_or_the_given_file(tmp_path):
    last = tmp_path / "run/checkpoints/last.ckpt"
    automatic, given = replace(config(), resume="auto"), replace(config(), resume=str(tmp_path / "run"))
    assert checkpoint_to_resume(automatic, tmp_path / "run") is None
    with pytest.raises(UserError, match=r"run holds no checkpoints/last\.ckpt; give a run's folder, or auto"):
        checkpoint_to_resume(given, tmp_path / "other")
    last.parent.mkdir(parents=True)
    last.touch()
    assert checkpoint_to_resume(automatic, tmp_path / "run") == last
    assert checkpoint_to_resume(given, tmp_path / "other") == last
    assert checkpoint_to_resume(replace(given, resume=str(last)), tmp_path / "other") == last
    assert checkpoint_to_resume(config(), tmp_path / "run") is None  # it has no config.yaml: no run
    (tmp_path / "run/config.yaml").touch()
    with pytest.raises(UserError, match="already holds a run; give resume=auto to continue it, or another run_dir"):
        checkpoint_to_resume(config(), tmp_path / "run")


@pytest.mark.parametrize(
    ("step", "waited", "patience", "why"),
    [
        (50, 0, None, "all 50 steps have been taken; raise trainer.max_steps"),
        (7, 3, 3, "it stopped early at step 7; raise callbacks.early_stopping.patience"),
        (7, 3, 4, None),
        (7, 3, None, None),
        (7, None, 3, None),  # a checkpoint of version 0.1, which counted elsewhere
    ],
)
def test_why_finished_names_the_key_that_continues_the_run(step, waited, patience, why):
    made = config(max_steps=50)
    made.callbacks.early_stopping.patience = patience
    key = "EarlyStopping{'monitor': 'val_loss', 'mode': 'min'}"
    states = {"Checkpoints": {"best": 1.0}} | ({} if waited is None else {key: {"wait_count": waited}})
    said = why_finished({"global_step": step, "callbacks": states}, resolve(made, **CPU))
    assert said is why is None or said.startswith(why)
