"""metrics.csv: its rows, what they measure, and what a resumed run keeps of them."""

import csv
import math

import pytest
import torch

from headwise.training.callbacks import Stopwatch
from headwise.training.metrics import METRICS_COLUMNS, MetricsLog, peak_memory, read_losses
from tests.training.test_lightning_module import small_module, stub_trainer


@pytest.fixture
def clock(monkeypatch):
    """The seconds of the callbacks' clock, to be set."""
    now = [100.0]
    monkeypatch.setattr("headwise.training.callbacks.time.perf_counter", lambda: now[0])
    return now


def take_step(log, module, step, clock, **trainer):
    """Run the hooks of one optimizer step of four seconds that adds 1/64 to every weight."""
    module._trainer = before = stub_trainer(step - 1, **trainer)
    log.on_train_batch_start(before, module, None, step - 1)
    log.on_before_optimizer_step(before, module, None)
    clock[0] += 4.0
    with torch.no_grad():
        for p in module.parameters():
            p += 2**-6
    module.train_loss, module.grad_norm, module.last_lr = torch.tensor(2.5 - step / 8), torch.tensor(0.5), 0.25
    module._trainer = after = stub_trainer(step, **trainer)
    log.on_train_batch_end(after, module, None, None, step - 1)
    return after


def validate(log, module, trainer, loss):
    log.on_validation_start(trainer, module)
    module.val_loss, module.val_bits_per_byte, module.val_count = loss, loss / 2, 7
    log.on_validation_end(trainer, module)


def rows(folder):
    return list(csv.DictReader((folder / "metrics.csv").open()))


def started_log(folder, module, step=0, state=None):
    log = MetricsLog(folder / "metrics.csv", 2, 3, tokens_per_step=50, peak=1e6, stopwatch=Stopwatch())
    if state:
        log.load_state_dict(state)
    log.on_train_start(stub_trainer(step), module)
    return log


def test_metricslog_writes_a_row_every_n_steps_and_one_for_each_validation(tmp_path, clock):
    module = small_module()
    log = started_log(tmp_path, module)
    for step in range(1, 7):
        trainer = take_step(log, module, step, clock, max_steps=7)
        if step % 3 == 0:
            validate(log, module, trainer, 2.0)
            clock[0] += 1000.0  # seconds that are no training
    assert [row["step"] for row in rows(tmp_path)] == ["2", "3", "4", "6"]
    assert [row["val_loss"] for row in rows(tmp_path)] == ["", "2.0", "", "2.0"]
    assert list(rows(tmp_path)[0]) == METRICS_COLUMNS
    assert read_losses(tmp_path / "metrics.csv") == {
        "train": [(2, 2.25), (3, 2.125), (4, 2.0), (6, 1.75)],
        "val": [(3, 2.0), (6, 2.0)],
    }


def test_metricslog_measures_speed_and_update_since_the_last_row(tmp_path, clock):
    module = small_module()
    weights = torch.cat([p.detach().flatten() for p in module.parameters()])
    log = started_log(tmp_path, module)
    take_step(log, module, 1, clock)
    take_step(log, module, 2, clock)
    (row,) = rows(tmp_path)
    assert (float(row["seconds"]), float(row["tokens_per_second"]), int(row["tokens"])) == (8.0, 12.5, 100)
    assert float(row["mfu"]) == pytest.approx(12.5 * module.model.flops_per_token() / 1e6, abs=1e-4)
    before = weights + 2**-6  # the second step is measured
    moved = math.sqrt(len(weights)) * 2**-6
    assert float(row["update_ratio"]) == pytest.approx(moved / float(before.norm()), rel=1e-4)
    assert (float(row["lr"]), float(row["grad_norm"])) == (0.25, 0.5)


def test_metricslog_continues_its_time_and_removes_later_rows_when_resumed(tmp_path, clock):
    module = small_module()
    log = started_log(tmp_path, module)
    for step in (1, 2, 3, 4):
        trainer = take_step(log, module, step, clock)
        if step == 3:
            validate(log, module, trainer, 2.0)
            saved = log.state_dict()
    resumed = started_log(tmp_path, module, step=3, state=saved)
    assert [row["step"] for row in rows(tmp_path)] == ["2", "3"]
    take_step(resumed, module, 4, clock)
    assert [float(row["seconds"]) for row in rows(tmp_path)] == [8.0, 12.0, 16.0]


def test_metricslog_measures_the_step_at_which_a_run_is_stopped(tmp_path, clock):
    module = small_module()
    log = started_log(tmp_path, module)
    trainer = take_step(log, module, 1, clock)
    assert not trainer.should_stop
    validate(log, module, trainer, 3.0)
    assert [(row["step"], row["val_loss"]) for row in rows(tmp_path)] == [("1", "3.0")]
    assert take_step(
        log, module, 50, clock, max_steps=50
    ).should_stop  # so that Lightning validates after the last step


def test_peak_memory_is_that_of_this_process():
    assert 50 < peak_memory(torch.device("cpu")) < 1e5  # MB
