"""Callbacks on their own; the whole flow is in tests/commands."""

import io
import math
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from headwise.errors import RunError
from headwise.inspection.recorder import Snapshot
from headwise.training.callbacks import AttentionMaps, Checkpoints, ProgressBar, read_samples
from headwise.training.clock import Clock, Stopwatch, step_ended
from headwise.training.metrics import refuse_to_diverge
from tests.training.test_lightning_module import module


def trainer(step=0, max_steps=50, accumulate=1):
    alone = SimpleNamespace(reduce=lambda value, **_: value)
    return SimpleNamespace(
        global_step=step, max_steps=max_steps, accumulate_grad_batches=accumulate, is_global_zero=True, strategy=alone
    )


def test_something_is_due_every_n_steps_and_at_the_last_and_never_within_a_step():
    assert [step for step in range(1, 18) if Clock(5).due(trainer(step, max_steps=17), step - 1)] == [5, 10, 15, 17]
    assert not Clock(None).due(trainer(17, max_steps=17), 16)
    assert [i for i in range(6) if step_ended(trainer(accumulate=3), i)] == [2, 5]
    assert not Clock(1).due(trainer(4, accumulate=3), 12)


def test_attention_is_looked_at_early_and_then_every_n_steps_and_pictured_a_bounded_number_of_times():
    looked = []
    recorder = SimpleNamespace(
        record=lambda model, step, pictures: looked.append((step, pictures)) or Snapshot(step), begin=lambda step: None
    )
    maps, made = AttentionMaps(recorder, 100, Stopwatch()), module()
    made.train_loss = made.grad_norm = torch.tensor(1.0)

    def run(max_steps):
        looked.clear()
        for step in range(max_steps + 1):
            now = trainer(step, max_steps)
            now.loggers = []
            if step == 0:
                maps.on_train_start(now, made)
            else:
                maps.on_train_batch_end(now, made, None, None, step - 1)
        return looked

    assert [step for step, _ in run(450)] == [0, 1, 4, 16, 64, 100, 200, 300, 400]  # the last look is on_fit_end's
    assert all(pictures for _, pictures in looked)
    long = run(30_000)
    assert len(long) == 5 + 299
    assert [step for step, pictures in long if pictures and step >= 100] == list(range(600, 30_000, 600))


def test_the_bar_shows_steps_and_losses_in_a_terminal():
    bar, screen = ProgressBar(), io.StringIO()
    bar.console = Console(file=screen, force_terminal=True, width=100)
    made = module()
    bar.on_train_start(trainer(), made)
    made.train_loss, made.val_loss = torch.tensor(2.345), 2.5
    bar.on_train_batch_end(trainer(30), made, None, None, 29)
    bar.bar.refresh()
    bar.on_validation_end(trainer(30), made)
    bar.on_train_end(trainer(50), made)
    shown = screen.getvalue()
    assert "30/50" in shown
    assert "train 2.345  val 2.500" in shown
    assert "50/50" in shown
    assert bar.bar is None


def test_divergence_is_named_with_the_number_that_shows_it():
    made = module()
    made.train_loss, made.grad_norm = torch.tensor(2.0), torch.tensor(1.0)
    refuse_to_diverge(trainer(7), made)
    made.grad_norm = torch.tensor(math.inf)
    with pytest.raises(RunError, match="diverged by step 7: its gradient norm is inf"):
        refuse_to_diverge(trainer(7), made)
    made.grad_norm, made.val_loss, made.val_count = torch.tensor(1.0), math.nan, 1
    with pytest.raises(RunError, match="its validation loss is nan"):
        refuse_to_diverge(trainer(7), made)


def test_a_loss_far_above_that_of_guessing_is_a_divergence_too():
    made = module()
    made.train_loss, made.grad_norm = torch.tensor(7.2), torch.tensor(1.0)  # guessing gives ln 23 = 3.14
    refuse_to_diverge(trainer(7), made)
    made.train_loss = torch.tensor(7.4)
    with pytest.raises(
        RunError, match=r"its training loss is 7\.4, where guessing gives 3\.14; try a smaller optimizer\.lr"
    ):
        refuse_to_diverge(trainer(7), made)


def test_a_run_stops_after_so_many_validations_without_a_new_best(tmp_path, capsys):
    made, checkpoints = module(), Checkpoints(tmp_path, None, 1, 2, Stopwatch())
    losses = [2.0, 1.5, 1.6, 1.4, 1.5, 1.4, 9.9]
    stopped, saved = [], []
    for loss in losses:
        made.val_loss, moment = loss, trainer()
        moment.should_stop = False
        moment.save_checkpoint = lambda file, weights_only: file.write_text("") or saved.append(file.name[1:5])
        checkpoints.on_validation_end(moment, made)
        stopped.append(moment.should_stop)
    assert stopped == [False, False, False, False, False, True, True]
    assert saved.count("best") == 3
    again, moment = Checkpoints(tmp_path, None, 1, 2, Stopwatch()), trainer()
    again.load_state_dict(checkpoints.state_dict())
    again.on_train_start(moment, made)
    assert (again.best, again.waited, moment.should_stop) == (1.4, 3, True)
    elsewhere = Checkpoints(tmp_path / "other", None, 1, 9, Stopwatch())
    elsewhere.load_state_dict(checkpoints.state_dict())
    elsewhere.on_train_start(moment, made)
    assert (elsewhere.best, moment.should_stop) == (math.inf, False)  # its best.ckpt is in another folder


def test_the_stopwatch_counts_all_but_its_pauses(monkeypatch):
    now = [10.0]
    monkeypatch.setattr("headwise.training.clock.time.perf_counter", lambda: now[0])
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


def test_samples_are_read_back_by_step(tmp_path):
    (tmp_path / "samples.txt").write_text("==== step 5\none\n==== not a step\n\n==== step 10\ntwo\n\n")
    assert read_samples(tmp_path / "samples.txt") == {5: "one\n==== not a step\n\n", 10: "two\n\n"}
    assert read_samples(tmp_path / "none.txt") == {}
