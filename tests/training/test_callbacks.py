"""Callbacks: when they run, what they save and print. Whole runs are in test_train and test_end_to_end."""

import io
import math
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from headwise.inspection.recorder import Snapshot
from headwise.training.callbacks import (
    AttentionMaps,
    Checkpoints,
    EarlyStopping,
    EveryNSteps,
    ProgressBar,
    Stopwatch,
    read_samples,
)
from tests.training.test_lightning_module import small_module, stub_trainer


def test_everynsteps_runs_every_n_steps_and_after_the_last_and_never_within_a_step():
    callback = EveryNSteps(5)
    assert [s for s in range(1, 18) if callback.is_due(stub_trainer(s, max_steps=17), s - 1)] == [5, 10, 15, 17]
    assert not EveryNSteps(None).is_due(stub_trainer(17, max_steps=17), 16)
    assert [i for i in range(12, 18) if EveryNSteps(1).is_due(stub_trainer(4, accumulate=3), i)] == [14, 17]


def test_attentionmaps_records_early_then_every_n_steps_and_draws_a_bounded_number_of_snapshots():
    recorded = []
    recorder = SimpleNamespace(
        record=lambda model, step, pictures: recorded.append((step, pictures)) or Snapshot(step),
        begin=lambda step: None,
    )
    maps, module = AttentionMaps(recorder, 100, Stopwatch()), small_module()
    module.train_loss = module.grad_norm = torch.tensor(1.0)

    def run(max_steps):
        recorded.clear()
        for step in range(max_steps + 1):
            module._trainer = trainer = stub_trainer(step, max_steps)
            if step == 0:
                maps.on_train_start(trainer, module)
            else:
                maps.on_train_batch_end(trainer, module, None, None, step - 1)
        return recorded

    assert [step for step, _ in run(450)] == [0, 1, 4, 16, 64, 100, 200, 300, 400]  # on_fit_end records the last
    assert all(pictures for _, pictures in recorded)
    long = run(30_000)
    assert len(long) == 5 + 299
    assert [step for step, pictures in long if pictures and step >= 100] == list(range(600, 30_000, 600))


def test_progressbar_shows_steps_and_losses_in_a_terminal():
    bar, screen = ProgressBar(), io.StringIO()
    bar.console = Console(file=screen, force_terminal=True, width=100)
    module = small_module()
    bar.on_train_start(stub_trainer(), module)
    module.train_loss, module.val_loss = torch.tensor(2.345), 2.5
    bar.on_train_batch_end(stub_trainer(30), module, None, None, 29)
    bar.bar.refresh()
    bar.on_validation_end(stub_trainer(30), module)
    bar.on_train_end(stub_trainer(50), module)
    shown = screen.getvalue()
    assert "30/50" in shown
    assert "train 2.345  val 2.500" in shown
    assert "50/50" in shown
    assert bar.bar is None


def validate(callbacks, module, loss, step=0):
    """Run the callbacks at the end of a validation with this loss, and return the trainer."""
    trainer = stub_trainer(step, callback_metrics={"val_loss": torch.tensor(loss)})
    module.val_loss = loss
    for callback in callbacks:
        callback.on_validation_end(trainer, module)
    return trainer


LOSSES = [2.0, 1.5, 1.6, 1.4, 1.5, 1.4, 9.9]


def test_earlystopping_stops_after_so_many_validations_without_a_new_best(capsys):
    stopping, module = EarlyStopping(2), small_module()
    stopped = [validate([stopping], module, loss, step).should_stop for step, loss in enumerate(LOSSES)]
    assert stopped == [False, False, False, False, False, True, True]
    assert capsys.readouterr().err.splitlines()[0] == ("headwise: step 5: no better for 2 validations; stopping early")
    never, module = EarlyStopping(None), small_module()
    assert not any(validate([never], module, loss).should_stop for loss in LOSSES)
    assert never.wait_count == 3  # so that a patience that is given later counts them


@pytest.mark.parametrize(("patience", "stops"), [(3, True), (4, False), (None, False)])
def test_earlystopping_stays_stopped_when_resumed_unless_patience_is_raised(patience, stops):
    stopping, module = EarlyStopping(2), small_module()
    for loss in LOSSES:
        validate([stopping], module, loss)
    resumed, trainer = EarlyStopping(patience), stub_trainer()
    resumed.load_state_dict(stopping.state_dict())
    resumed.on_train_start(trainer, module)
    assert (float(resumed.best_score), resumed.wait_count) == (pytest.approx(1.4), 3)
    assert trainer.should_stop == stops


def test_checkpoints_saves_the_best_and_the_last_and_starts_again_in_another_folder(tmp_path):
    saved, module = [], small_module()
    checkpoints = Checkpoints(tmp_path, None, 1, Stopwatch())
    for loss in LOSSES:
        trainer, module.val_loss = stub_trainer(), loss
        trainer.save_checkpoint = lambda file, weights_only: file.write_text("") or saved.append(file.name[1:5])
        checkpoints.on_validation_end(trainer, module)
    assert (saved.count("best"), saved.count("last")) == (3, len(LOSSES))
    for folder, best in ((tmp_path, 1.4), (tmp_path / "other", math.inf)):
        resumed, stopping = Checkpoints(folder, None, 1, Stopwatch()), EarlyStopping(9)
        resumed.load_state_dict(checkpoints.state_dict())
        stopping.best_score = torch.tensor(1.4)
        resumed.on_train_start(stub_trainer(early_stopping_callback=stopping), module)
        assert resumed.best == pytest.approx(float(stopping.best_score)) == best


def test_checkpoints_postpones_a_stop_to_the_end_of_an_accumulated_step():
    checkpoints, trainer = Checkpoints(None, None, 100, Stopwatch()), stub_trainer(7, accumulate=3)
    trainer.should_stop = True
    checkpoints.on_train_batch_end(trainer, small_module(), None, None, 23)
    assert trainer.should_stop
    checkpoints.on_train_batch_end(trainer, small_module(), None, None, 24)
    assert not trainer.should_stop


def test_stopwatch_counts_everything_but_its_pauses(monkeypatch):
    now = [10.0]
    monkeypatch.setattr("headwise.training.callbacks.time.perf_counter", lambda: now[0])
    watch = Stopwatch()

    def wait(seconds):
        now[0] += seconds
        return watch.seconds

    assert wait(1) == 0
    watch.start()
    assert wait(2) == 2
    with watch.paused():
        assert wait(4) == 2
    assert wait(8) == 10
    watch.stop()
    assert wait(16) == 10
    with watch.paused():
        wait(32)
    assert wait(64) == 10
    watch.start()
    assert wait(128) == 138


def test_read_samples_returns_them_by_step(tmp_path):
    (tmp_path / "samples.txt").write_text("==== step 5\none\n==== not a step\n\n==== step 10\ntwo\n\n")
    assert read_samples(tmp_path / "samples.txt") == {5: "one\n==== not a step\n\n", 10: "two\n\n"}
    assert read_samples(tmp_path / "none.txt") == {}
