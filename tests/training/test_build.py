"""The parts of a run: a seeded model, callbacks in their order, a Trainer that counts optimizer steps."""

from dataclasses import replace

import pytest
import torch

from headwise.config import AttentionConfig, CallbacksConfig, DataConfig, GPTConfig, TrainConfig, TrainerConfig
from headwise.data.token_files import prepare
from headwise.errors import UserError
from headwise.training.build import (
    build_callbacks,
    build_datamodule,
    build_model,
    build_module,
    build_trainer,
    compiler_works,
)
from headwise.training.callbacks import Checkpoints, EarlyStopping
from headwise.training.metrics import MetricsLog
from headwise.training.resolve import resolve
from tests.small import TEXT

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def token_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "my.txt").write_text(TEXT)
    data = DataConfig(source="files", path=str(folder / "my.txt"), cache_dir=str(folder / "cache"))
    return prepare(data, TrainConfig().tokenizer, None)


def small_run(token_files, prompts=(), **trainer):
    config = TrainConfig(
        model=GPTConfig(block_size=17, n_layer=2, n_head=3, n_embd=18),
        data=DataConfig(batch_size=5, global_batch_size=15),
        trainer=TrainerConfig(accelerator="cpu", max_steps=7, **trainer),
        callbacks=CallbacksConfig(attention=AttentionConfig(prompts=list(prompts))),
        run_dir="nowhere",
    )
    return resolve(
        config, token_files.tokenizer.vocab_size, len(token_files.tokens("train")), n_devices=1, device="cpu"
    )


def test_build_model_draws_the_weights_by_the_seed_only(token_files):
    run = small_run(token_files)
    first, again = build_model(run, None), build_model(run, None)
    other = build_model(replace(run, seed=2), None)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_build_callbacks_and_build_trainer_run_metrics_first_and_checkpoints_last(token_files, tmp_path):
    run = small_run(token_files)
    trainer = build_trainer(run, run.accumulate, build_callbacks(run, tmp_path, token_files, peak=1.0))
    assert isinstance(trainer.callbacks[0], MetricsLog)
    assert isinstance(trainer.callbacks[-1], Checkpoints)  # saves the state of the others
    assert isinstance(trainer.early_stopping_callback, EarlyStopping)
    assert not list(tmp_path.iterdir())


def test_build_callbacks_records_the_prompts_or_a_part_of_the_validation_text(token_files, tmp_path):
    for prompts, names in (([], ["text"]), (["The lions", "so they"], ["prompt_1", "prompt_2"])):
        run = small_run(token_files, prompts)
        maps = build_callbacks(run, tmp_path, token_files, peak=1.0)[1]
        assert [each.name for each in maps.recorder.inputs] == [*names, "repeats", "val"]
    with pytest.raises(UserError, match=r"callbacks\.attention\.prompts: '€'"):
        build_callbacks(small_run(token_files, ["€"]), tmp_path, token_files, peak=1.0)


def test_build_trainer_counts_optimizer_steps(token_files):
    trainer = build_trainer(small_run(token_files, val_check_interval=4), accumulate=3)
    assert (trainer.accumulate_grad_batches, trainer.val_check_interval, trainer.max_steps) == (3, 12, 7)


@pytest.mark.parametrize(
    ("flags", "given"),
    [
        ({"devices": 0}, "trainer.accelerator=cpu trainer.devices=0 trainer.strategy=auto trainer.precision=32-true: "),
        ({"max_time": "soon"}, "trainer.accelerator=cpu trainer.devices=1"),
    ],
)
def test_build_trainer_refuses_what_lightning_refuses_with_one_line(token_files, flags, given):
    with pytest.raises(UserError) as error:
        build_trainer(small_run(token_files, **flags))
    assert str(error.value).startswith(given)
    assert "\n" not in str(error.value)


def test_build_module_writes_where_a_checkpoint_comes_from(token_files):
    run, checkpoint = small_run(token_files), {}
    module = build_module(run, build_model(run, None), token_files, {"seed": 3}, CPU)
    module._trainer = build_trainer(run)
    module.on_save_checkpoint(checkpoint)
    about = checkpoint["headwise"]["about"]
    assert (about["config"], about["devices"], about["data"], about["step"]) == ({"seed": 3}, 1, token_files.key, 0)
    assert {"text", "versions", "git_commit", "val_loss"} <= set(about)
    assert checkpoint["headwise"]["model"]["n_head"] == 3


def test_build_datamodule_has_the_runs_windows(token_files):
    run = small_run(token_files)
    data = build_datamodule(run, token_files)
    data.trainer = build_trainer(run, run.accumulate)
    batches = list(data.train_dataloader())
    assert len(batches) == 7 * 3  # one epoch is the whole run
    assert batches[0][0].shape == (5, 17)


def test_compiler_works_prints_why_it_does_not(monkeypatch, capsys):
    def refuse(*_, **__):
        raise RuntimeError("no C++ compiler\nmore lines")

    monkeypatch.setattr(torch, "compile", refuse)
    assert not compiler_works(CPU)
    assert (
        capsys.readouterr().err
        == "headwise: compile: no compiler works here (no C++ compiler); training without compilation\n"
    )
