"""train(), called in this process: its results, its folder, what it starts from and how it ends.

The command is tested in commands/test_train and commands/test_resume."""

import csv
import json
from contextlib import chdir

import lightning as L
import pytest
import torch
import yaml

from headwise.checkpoint import load
from headwise.config import TrainConfig
from headwise.errors import Pruned, UserError
from headwise.files import locked_folder
from headwise.launch import compose
from headwise.training.summary import summary_text
from headwise.training.train import RunInfo, devices_of_run, load_initial_model, train
from tests.small import STEPS, TEXT, metrics


def train_here(cwd, folder, *overrides, callbacks=(), **info):
    """Train four tiny steps on TEXT in `cwd`/`folder`, and return what train returns."""
    (cwd / "my.txt").write_text(TEXT)
    quiet = ["logger=none", "callbacks.attention.every_n_steps=null", "trainer.max_steps=4", "trainer=cpu"]
    own = ["data=files", "data.path=my.txt", "data.cache_dir=cache", f"run_dir={folder}"]
    given = [*STEPS, *quiet, *own, *overrides]
    with chdir(cwd):
        return train(compose("train", given), RunInfo(cwd / folder, given, "", **info), callbacks)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The working folder of a run, and its summary."""
    cwd = tmp_path_factory.mktemp("train")
    return cwd, train_here(cwd, "out")


def test_train_returns_what_it_writes_to_summary_json(run):
    cwd, summary = run
    assert json.loads((cwd / "out/summary.json").read_text()) == summary
    assert (summary["steps"], summary["run_dir"]) == (4, str(cwd / "out"))
    assert load(summary["checkpoint"]).about["val_loss"] == summary["val_loss"]


def test_train_writes_the_resolved_configuration(run):
    cwd, _ = run
    config = yaml.safe_load((cwd / "out/config.yaml").read_text())
    assert config["model"]["vocab_size"] == load(cwd / "out").tokenizer.vocab_size > 0
    assert (config["data"]["global_batch_size"], config["trainer"]["precision"]) == (5, "32-true")
    assert config["compile"] is False
    assert "data.path=my.txt" in yaml.safe_load((cwd / "out/overrides.yaml").read_text())


def test_train_returns_the_summary_of_a_finished_run_and_leaves_it_as_it_is(run, capsys):
    cwd, summary = run
    before = (cwd / "out/metrics.csv").read_bytes()
    assert train_here(cwd, "out", "resume=auto") == summary
    assert (
        "out has finished: all 4 steps have been taken; raise trainer.max_steps to continue" in capsys.readouterr().err
    )
    assert (cwd / "out/metrics.csv").read_bytes() == before


def test_train_refuses_a_folder_that_another_process_writes(run):
    cwd, _ = run
    with locked_folder(cwd / "busy", "run_dir"), pytest.raises(UserError, match="is being written by another process"):
        train_here(cwd, "busy")


def test_train_of_an_estimate_returns_none_and_writes_nothing(run, capsys):
    cwd, _ = run
    assert train_here(cwd, "estimated", "estimate=true") is None
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()][-2:] == ["memory", "time"]
    assert not (cwd / "estimated").exists()


def test_train_runs_extra_callbacks_after_its_own_and_lets_them_prune(run):
    cwd, _ = run

    class Prune(L.Callback):
        def on_validation_end(self, trainer, pl_module):
            written = (cwd / "pruned/metrics.csv").read_text().splitlines()
            assert written[-1].startswith("4,")  # MetricsLog was before
            raise Pruned

    with pytest.raises(Pruned):
        train_here(cwd, "pruned", callbacks=[Prune()])
    assert not (cwd / "pruned/summary.json").exists()


def test_train_prints_the_plan_of_the_first_run_of_a_sweep_only(run, capsys):
    cwd, _ = run
    for name, lines in (("0", ["parameters", "text", "tokens", "arithmetic", "device", "folder"]), ("1", None)):
        train_here(cwd, f"sweep/{name}", "trainer.max_steps=1", sweep="sweep", name=name)
        printed = [line.split()[1] for line in capsys.readouterr().err.splitlines() if line.startswith("headwise: ")]
        assert printed == ["text", *(lines or ["parameters", "folder"])]  # "text has 40 tokens; the first 24 ..."


def test_load_initial_model_has_the_runs_dropout_and_a_shorter_block_size(run):
    cwd, _ = run
    config = TrainConfig(init_from=str(cwd / "out"))
    config.model.block_size, config.model.dropout = 13, 0.25
    initial, saved = load_initial_model(config, None, ["model.block_size=13"]), load(cwd / "out")
    assert (initial.config.block_size, initial.config.dropout) == (13, 0.25)
    assert (initial.config.n_layer, initial.config.position) == (saved.config.n_layer, saved.config.position)
    ids = torch.tensor([[1, 2, 3, 5, 7]])
    assert torch.equal(initial.model.eval()(ids), saved.model(ids))
    assert load_initial_model(TrainConfig(), None, []) is None
    config.model.block_size = 64
    with pytest.raises(UserError, match=r"model\.block_size=64 is above the 24 of init_from="):
        load_initial_model(config, None, ["model.block_size=64"])


def test_devices_of_run_are_those_of_the_trainer_keys_and_must_divide_the_batch():
    config = TrainConfig(run_dir="nowhere")
    config.trainer.accelerator = "cpu"
    assert devices_of_run(config) == (torch.device("cpu"), 1, True)
    config.data.global_batch_size = 33
    with pytest.raises(UserError, match=r"data\.global_batch_size=33 is not divisible"):
        devices_of_run(config)


def test_max_epochs_become_steps_of_whole_windows(run):
    cwd, _ = run
    (cwd / "epochs.txt").write_text(TEXT)
    with chdir(cwd):
        own = [
            *STEPS,
            "data=files",
            "data.path=epochs.txt",
            "logger=none",
            "run_dir=epochs",
            "trainer=cpu",
            "trainer.max_epochs=2",
        ]
        config = compose("train", [*own, "callbacks.attention.every_n_steps=null", "data.cache_dir=cache"])
        summary = train(config, RunInfo(cwd / "epochs", own, ""))
    train_tokens = int(len(TEXT) * 0.9)
    assert summary["steps"] == 2 * (train_tokens // (5 * 24))
    assert load(cwd / "epochs").about["config"]["trainer"]["max_steps"] == summary["steps"]


def test_max_epochs_and_max_steps_together_are_an_error(run):
    cwd, _ = run
    with pytest.raises(UserError, match=r"^trainer\.max_epochs=3 and trainer\.max_steps: give one of them$"):
        train_here(cwd, "both", "trainer.max_epochs=3")
    assert not (cwd / "both").exists()


def test_fast_dev_run_trains_and_validates_n_batches_without_a_logger(run, capsys):
    cwd, _ = run
    summary = train_here(cwd, "fast", "trainer.fast_dev_run=3", "logger=tensorboard")
    assert (summary["steps"], summary["fast_dev_run"]) == (3, 3)
    assert "trainer.fast_dev_run: 3 steps, validation on 3 batches, no logger" in capsys.readouterr().err
    assert (cwd / "fast/checkpoints/best.ckpt").exists()
    assert not (cwd / "fast/tensorboard").exists()
    assert "(some batches, best of the run" in summary_text(summary)


def test_limit_val_batches_is_for_the_curves_and_the_summary_has_the_whole_split(run):
    cwd, _ = run
    part = train_here(cwd, "part", "trainer.limit_val_batches=0.5", "data.val_fraction=0.4")
    whole = train_here(cwd, "whole", "data.val_fraction=0.4")
    assert metrics(cwd / "part")[-1]["val_loss"] != metrics(cwd / "whole")[-1]["val_loss"]
    assert metrics(cwd / "part")[-1]["train_loss"] == metrics(cwd / "whole")[-1]["train_loss"]
    assert part["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-5)


@pytest.mark.parametrize(
    "given", ["trainer.fast_dev_run=-1", "trainer.limit_val_batches=0", "trainer.limit_val_batches=1.5"]
)
def test_fast_dev_run_and_limit_val_batches_out_of_range_are_one_line(run, given):
    cwd, _ = run
    with pytest.raises(UserError, match=f"^{given} must be"):
        train_here(cwd, "wrong", given)


def test_callbacks_and_loggers_of_others_run_beside_the_own_ones(run):
    cwd, _ = run
    own = "{_target_: lightning.pytorch.callbacks.LearningRateMonitor}"
    logger = "{_target_: lightning.pytorch.loggers.CSVLogger, save_dir: logs, name: mine}"
    train_here(cwd, "extra", f"callbacks.extra=[{own}]", f"logger.extra=[{logger}]")
    (file,) = (cwd / "logs/mine").glob("*/metrics.csv")
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    assert [float(row["val_loss"]) for row in rows if row.get("val_loss")] == pytest.approx(
        [float(row["val_loss"]) for row in metrics(cwd / "extra") if row["val_loss"]]
    )
    assert yaml.safe_load((file.parent / "hparams.yaml").read_text())["model"]["n_layer"] == 2
    saved = torch.load(cwd / "extra/checkpoints/last.ckpt", weights_only=True)["headwise"]["about"]["config"]
    assert saved["callbacks"]["extra"][0]["_target_"].endswith("LearningRateMonitor")
    assert load(cwd / "extra").about["config"] == saved  # and nothing was made from it


def test_callback_that_does_not_exist_is_one_line_before_anything_is_written(run):
    cwd, _ = run
    with pytest.raises(UserError, match=r"^callbacks\.extra: no_such\.Mine: No module named 'no_such'$"):
        train_here(cwd, "nowhere", "callbacks.extra=[{_target_: no_such.Mine}]")
    assert not (cwd / "nowhere").exists()
