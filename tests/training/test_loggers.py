"""Loggers: W&B without an account and without a network, TensorBoard, none."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import wandb
from PIL import Image

from headwise.config import LoggerConfig
from headwise.errors import UserError
from headwise.training.loggers import close_loggers, log_step, make_loggers, validate_logger, wandb_location
from tests.read_wandb import history, metrics, offline_log


@pytest.fixture
def without_account(monkeypatch, tmp_path):
    """A user without an account."""
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def picture(folder):
    Image.fromarray(np.zeros((3, 5, 3), np.uint8)).save(folder / "x.png")
    return folder / "x.png"


def logged(folder):
    return history(offline_log(folder))


def test_wandb_is_offline_without_an_account_and_names_the_command_that_uploads(tmp_path, without_account):
    (logger,) = make_loggers(LoggerConfig(), tmp_path, {"seed": 1})
    log_step([logger], 7, {"a": 0.5}, {"attn/maps/x": picture(tmp_path)})
    assert wandb_location([logger]).startswith(f"offline; with an account: wandb sync {tmp_path}/wandb/offline-run-")
    close_loggers([logger], failed=False)
    assert {m.glob_name: m.step_metric for m in metrics(offline_log(tmp_path))}["*"] == "trainer/global_step"
    (row,) = logged(tmp_path)
    assert (row["a"], row["trainer/global_step"]) == (0.5, 7)


def test_wandb_that_cannot_start_logs_offline_and_prints_one_line(tmp_path, without_account, monkeypatch, capsys):
    real = wandb.init

    def init(mode, **settings):
        if mode == "online":
            raise wandb.errors.CommError("no network\nmore lines")
        return real(mode=mode, **settings)

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "init", init)
    (logger,) = make_loggers(LoggerConfig(), tmp_path, {})
    log_step([logger], 1, {"a": 1.0}, {})
    close_loggers([logger], failed=False)
    assert "headwise: W&B could not start (no network); logging offline\n" in capsys.readouterr().err
    assert [row["a"] for row in logged(tmp_path)] == [1.0]


def test_wandb_run_of_a_process_that_has_changed_folders_is_in_its_own_folder(tmp_path, without_account, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / name / "run").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        (logger,) = make_loggers(LoggerConfig(), Path("run"), {})
        log_step([logger], 1, {"a": 1.0}, {})
        close_loggers([logger], failed=False)
        assert [row["a"] for row in logged(tmp_path / name / "run")] == [1.0]


@pytest.mark.parametrize(("mode", "continued"), [("online", "run-20260102_030405-x7y8"), ("offline", None)])
def test_wandb_continues_the_run_of_a_resumed_training_if_online(tmp_path, monkeypatch, mode, continued):
    for earlier in ("run-20260101_030405-a1b2", "run-20260102_030405-x7y8", "offline-run-20260103_030405-c3d4"):
        (tmp_path / "wandb" / earlier).mkdir(parents=True)
    calls, started = [], SimpleNamespace(define_metric=lambda *_, **__: None)
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setattr(wandb, "init", lambda **settings: calls.append(settings) or started)
    monkeypatch.setattr("headwise.training.loggers.WandbLogger", lambda experiment: None)
    make_loggers(LoggerConfig(), tmp_path, {})
    (settings,) = calls
    assert (settings.get("id"), settings.get("resume")) == (("x7y8", "allow") if continued else (None, None))


def test_make_logger_adds_nothing_to_the_folder_for_csv_and_none(tmp_path):
    for kind in ("csv", "none"):
        assert make_loggers(LoggerConfig(kind=kind), tmp_path, {}) == []
    assert not list(tmp_path.iterdir())


def test_validate_logger_refuses_tensorboard_without_its_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        validate_logger(LoggerConfig(kind="tensorboard"))


def test_tensorboard_gets_values_and_images(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (logger,) = make_loggers(LoggerConfig(kind="tensorboard"), tmp_path, {})
    log_step([logger], 7, {"a": 0.5}, {"attn/maps/x": picture(tmp_path)})
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("a")] == [(7, 0.5)]
    assert events.Images("attn/maps/x")[0].step == 7


def test_wandb_run_path_is_none_if_wandb_is_disabled(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (logger,) = make_loggers(LoggerConfig(), tmp_path, {})
    log_step([logger], 1, {"a": 1.0}, {})
    assert wandb_location([logger]) is None
    close_loggers([logger], failed=False)
