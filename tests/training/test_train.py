"""train(), called in this process: its results, its folder, what it starts from and how it ends.

The command is tested in commands/test_train and commands/test_resume."""

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
from headwise.training.train import RunInfo, devices_of_run, load_initial_model, train
from tests.small import STEPS, TEXT


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
