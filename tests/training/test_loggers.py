"""Loggers: W&B without an account and without a network, TensorBoard, none."""

import json
import os
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import wandb
import yaml
from PIL import Image

from headwise.config import LoggerConfig, TrainConfig
from headwise.config_keys import schema_fields
from headwise.errors import UserError
from headwise.training.loggers import (
    close_loggers,
    log_samples,
    log_step,
    make_loggers,
    validate_logger,
    wandb_location,
)
from headwise.training.metrics import METRICS_COLUMNS
from tests.read_wandb import artifacts, history, metrics, offline_log, started
from tests.small import ROOT, STEPS, arguments, script_here, train


@pytest.fixture
def without_account(monkeypatch, tmp_path):
    """A user without an account."""
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"]:
        monkeypatch.delenv(name)


@pytest.fixture
def reads_environment(without_account):
    """A wandb that has not read the environment yet, which it does once in each process."""
    wandb.teardown()
    yield
    wandb.teardown()


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


VARIABLES = {"PROJECT": "p7", "NAME": "n11", "RUN_GROUP": "g13", "TAGS": "t17,u19", "ENTITY": "e23"}
VARIABLES |= {"NOTES": "some notes", "JOB_TYPE": "j29", "RUN_ID": "id31"}


def begun(config, folder, *names, written_to=None):
    """The record of an offline run that is begun and ended."""
    (logger,) = make_loggers(config, folder, {}, *names)
    close_loggers([logger], failed=False)
    return started(offline_log(written_to or folder))


def test_wandb_environment_variables_are_respected(tmp_path, reads_environment, monkeypatch, capsys):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    run = begun(LoggerConfig(), tmp_path, written_to=tmp_path / "elsewhere")
    assert (run.project, run.display_name, run.run_group, list(run.tags)) == ("p7", "n11", "g13", ["t17", "u19"])
    assert (run.entity, run.notes, run.job_type, run.run_id) == ("e23", "some notes", "j29", "id31")
    assert "is used, not" not in capsys.readouterr().err


def test_logger_keys_win_over_wandb_variables_with_one_line_each(tmp_path, reads_environment, monkeypatch, capsys):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    run = begun(LoggerConfig(project="own", name="mine", entity="e23", tags=["a", "b"]), tmp_path)
    assert (run.project, run.display_name, list(run.tags)) == ("own", "mine", ["a", "b"])
    assert [line for line in capsys.readouterr().err.splitlines() if "is used" in line] == [
        "headwise: logger.project=own is used, not WANDB_PROJECT=p7",
        "headwise: logger.name=mine is used, not WANDB_NAME=n11",
        "headwise: logger.tags=[a,b] is used, not WANDB_TAGS=t17,u19",
    ]


def test_wandb_without_keys_and_variables_has_the_documented_defaults(tmp_path, reads_environment):
    run = begun(LoggerConfig(), tmp_path)
    assert (run.project, run.display_name, run.run_group) == ("headwise", tmp_path.name, tmp_path.name)
    assert list(run.tags) == []


def test_wandb_resumed_run_of_a_grid_keeps_its_name_and_group(tmp_path, without_account, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_RUN_ID", "id31")
    runs = []
    for again in ("first", "resumed"):
        monkeypatch.setenv("WANDB_DIR", str(tmp_path / again))
        (tmp_path / again).mkdir()
        runs.append(begun(LoggerConfig(), tmp_path, "0 lr=3", "grid", written_to=tmp_path / again))
    assert {(run.display_name, run.run_group) for run in runs} == {("0 lr=3", "grid")}
    assert "id31" not in {run.run_id for run in runs}
    assert "WANDB_RUN_ID=id31 is not used: the runs of a multirun are runs of their own" in capsys.readouterr().err


def test_wandb_run_id_resumes_its_run_if_online(tmp_path, monkeypatch):
    calls, run = [], SimpleNamespace(define_metric=lambda *_, **__: None)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_RUN_ID", "id31")
    monkeypatch.setattr(wandb, "init", lambda **settings: calls.append(settings) or run)
    monkeypatch.setattr("headwise.training.loggers.WandbLogger", lambda experiment: None)
    make_loggers(LoggerConfig(), tmp_path, {})
    assert (calls[0]["id"], calls[0]["resume"]) == ("id31", "allow")


def test_wandb_agent_run_joins_its_sweep(tmp_path, reads_environment, monkeypatch):
    """With the variables that the agent sets. The agent itself needs an account."""
    (tmp_path / "parameters.yaml").write_text("optimizer.lr: {value: 0.007}\n")
    for name, value in {"SWEEP_ID": "s37", "RUN_ID": "r41", "PROJECT": "p7", "ENTITY": "e23"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(tmp_path / "parameters.yaml"))
    run = begun(LoggerConfig(), tmp_path)
    assert (run.sweep_id, run.run_id, run.project, run.entity, run.run_group) == ("s37", "r41", "p7", "e23", "")


def test_wandb_summary_has_minima_of_the_losses_only(tmp_path, without_account):
    begun(LoggerConfig(), tmp_path)
    said = {m.name or m.glob_name: m for m in metrics(offline_log(tmp_path))}
    assert {name for name, m in said.items() if m.summary.min} == {"train_loss", "val_loss", "val_bits_per_byte"}
    assert {m.step_metric for name, m in said.items() if name != "trainer/global_step"} == {"trainer/global_step"}


def test_wandb_samples_are_one_growing_table(tmp_path, without_account):
    (logger,) = make_loggers(LoggerConfig(), tmp_path, {})
    log_samples([logger], 3, "The ", {3: "The a"})
    log_samples([logger], 5, "The ", {3: "The a", 5: "The b"})
    close_loggers([logger], failed=False)
    rows = logged(tmp_path)
    assert [row["trainer/global_step"] for row in rows] == [3, 5]
    file = next((tmp_path / "wandb").glob(f"offline-run-*/files/{rows[1]['samples']['path']}"))
    table = json.loads(file.read_text())
    assert table["columns"] == ["step", "prompt", "text"]
    assert table["data"] == [[3, "The ", "The a"], [5, "The ", "The b"]]


def test_logger_log_model_stores_the_best_checkpoint_and_its_export_offline(tmp_path, without_account):
    train(tmp_path, "out", *STEPS, "trainer.max_steps=5", "logger=wandb", "logger.log_model=true")
    path = offline_log(tmp_path / "out")
    ident = started(path).run_id
    logged_ones = {one.name: one for one in artifacts(path)}
    assert set(logged_ones) >= {f"model-{ident}", f"huggingface-{ident}"}
    (entry,) = logged_ones[f"model-{ident}"].manifest.contents
    assert entry.path == "best.ckpt"
    assert Path(entry.local_path).read_bytes() == (tmp_path / "out/checkpoints/best.ckpt").read_bytes()
    exported = {entry.path: Path(entry.local_path) for entry in logged_ones[f"huggingface-{ident}"].manifest.contents}
    assert exported.keys() >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert all(file.is_file() for file in exported.values())


def test_logger_log_model_of_a_model_without_a_hugging_face_layout_stores_its_checkpoint(tmp_path, without_account):
    steps = [*STEPS, "trainer.max_steps=2", "model.position=alibi"]
    result = script_here("train", *arguments("out", [*steps, "logger=wandb", "logger.log_model=true"]), cwd=tmp_path)
    assert "headwise: logger.log_model: no Hugging Face folder: " in result.stderr
    assert [one.type for one in artifacts(offline_log(tmp_path / "out"))] == ["model"]


def test_logger_log_model_without_wandb_is_an_error():
    with pytest.raises(UserError, match=r"logger\.log_model=true needs logger=wandb, not logger\.kind=csv"):
        validate_logger(LoggerConfig(kind="csv", log_model=True))


# docs/wandb.md

PAGE = (ROOT / "docs/wandb.md").read_text()


def test_wandb_page_lists_the_keys_of_an_offline_run_and_its_command_runs(tmp_path, without_account):
    (command,) = re.findall(r"^headwise train (.*)$", PAGE, re.M)
    every_2 = [f"callbacks.{name}.every_n_steps=2" for name in ("attention", "samples")]
    train(tmp_path, "out", *STEPS, *every_2, "trainer.max_steps=3", "logger=wandb", *shlex.split(command))
    path = offline_log(tmp_path / "out")
    keys = {key for row in history(path) for key in row if not key.startswith("_")}
    rows = re.findall(r"^\| (`.*`) \|", PAGE.partition("## What is logged")[2].partition("\n## ")[0], re.M)
    listed = re.findall(r"`([^`]+)`", " ".join(rows))
    patterns = {each: re.sub("<.*?>", "(?!table|.*_loss$)[^/]+", each) for each in listed}
    assert [key for key in keys if not any(re.fullmatch(pattern, key) for pattern in patterns.values())] == []
    assert [each for each in listed if not any(re.fullmatch(patterns[each], key) for key in keys)] == []
    assert (started(path).project, list(started(path).tags)) == ("heads", ["a", "b"])
    assert [one.type for one in artifacts(path)].count("model") == 2


def test_wandb_sweep_files_name_keys_and_metrics_that_exist():
    keys = dict(schema_fields(TrainConfig()))
    (printed,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    for text in (printed, (ROOT / "configs/wandb/sweep.yaml").read_text()):
        sweep = yaml.safe_load(text)
        assert set(sweep["parameters"]) <= set(keys)
        assert sweep["metric"]["name"] in METRICS_COLUMNS
        assert "${args_no_hyphens}" in sweep["command"]
