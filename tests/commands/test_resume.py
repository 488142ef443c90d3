"""Resuming a run: the same result as without the interruption, bit for bit, or one line why not."""

import random
import signal
import time

import pytest
import torch

from headwise.checkpoint import load
from tests.small import (
    STEPS,
    arguments,
    losses,
    metrics,
    script_here,
    start_training,
    train,
)


def same_state(one, other):
    """Whether two runs ended with the same weights and the same state of the optimizer, bit for bit."""
    a, b = (torch.load(folder / "checkpoints/last.ckpt", weights_only=True) for folder in (one, other))
    states = [saved["optimizer_states"][0]["state"] for saved in (a, b)]
    assert all(torch.equal(a["state_dict"][name], b["state_dict"][name]) for name in a["state_dict"])
    for i, state in states[0].items():
        assert all(torch.equal(torch.as_tensor(state[k]), torch.as_tensor(states[1][i][k])) for k in state)
    return states[0].keys() == states[1].keys()


@pytest.mark.parametrize("interruption", ["SIGKILL", "SIGINT", "SIGTERM", "more steps"])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, interruption):
    """With dropout, accumulation and Muon. Interrupted at some moment, or finished and then given more steps."""
    steps = [*STEPS, "model.dropout=0.2", "data.global_batch_size=10", "callbacks.checkpoint.every_n_steps=7"]
    steps += ["optimizer=muon"]
    if interruption == "more steps":
        steps.append("schedule=constant")  # a schedule that ends later is another schedule
        train(tmp_path, "parts", *steps, "trainer.max_steps=8")
        steps.append("trainer.max_steps=14")
    else:
        steps.append("trainer.max_steps=120")
        process = start_training(tmp_path, "parts", *steps)
        table = tmp_path / "parts/metrics.csv"
        while process.poll() is None and not (table.exists() and table.read_text().count("\n") > 12):
            time.sleep(0.01)
        process.send_signal(getattr(signal, interruption))
        assert process.wait() == {"SIGKILL": -9, "SIGINT": 130, "SIGTERM": 143}[interruption]
    resumed = train(tmp_path, "parts", *steps, "resume=auto")
    whole = train(tmp_path, "whole", *steps)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert resumed["val_loss"] == whole["val_loss"]
    assert same_state(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_resumed_run_equals_the_uninterrupted_one_after_twenty_interruptions(tmp_path):
    """Kills, Ctrl-C and SIGTERM, in start-up, steps, validations and checkpoints, one after the other on one run."""
    draw = random.Random(0)
    steps = [*STEPS, "model.dropout=0.2", "data.global_batch_size=10", "callbacks.checkpoint.every_n_steps=7"]
    steps += ["optimizer=muon", "trainer.max_steps=400"]
    for count in range(20):
        process = start_training(tmp_path, "parts", *steps, "resume=auto")
        began, name = time.monotonic(), draw.choice(["SIGKILL", "SIGINT", "SIGTERM"])
        moment = draw.uniform(4, 11) if count % 4 else draw.uniform(0, 4)
        while process.poll() is None and time.monotonic() - began < moment:
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(getattr(signal, name))
        process.wait()
    train(tmp_path, "parts", *steps, "resume=auto")
    train(tmp_path, "whole", *steps)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert same_state(tmp_path / "whole", tmp_path / "parts")


def test_moved_run_keeps_its_best_checkpoint_when_resumed(tmp_path):
    steps = [*STEPS, "schedule=constant"]
    best = train(tmp_path, "here", *steps, "trainer.max_steps=8")["val_loss"]
    (tmp_path / "here").rename(tmp_path / "there")
    path = tmp_path / "there/checkpoints/last.ckpt"
    saved = torch.load(path, weights_only=True)
    assert saved["callbacks"]["Checkpoints"]["best"] == best
    saved["callbacks"]["Checkpoints"]["best"] = 0.0  # so that nothing can be better
    torch.save(saved, path)
    train(tmp_path, "there", *steps, "trainer.max_steps=12", "resume=auto")
    assert load(tmp_path / "there/checkpoints/best.ckpt").about["val_loss"] == best


def test_run_killed_before_its_summary_gets_it_when_resumed(tmp_path):
    steps = [*STEPS, "trainer.max_steps=8", "callbacks.attention.every_n_steps=4", "callbacks.samples.every_n_steps=4"]
    first = train(tmp_path, "out", *steps)
    heads = (tmp_path / "out/attention/heads.csv").read_text()
    for file in (
        "summary.json",
        "attention/timeline_induction.png",
        "attention/grid_mean_ablation.png",
        "attention/heads.csv",
    ):
        (tmp_path / "out" / file).unlink()
    again = train(tmp_path, "out", *steps, "resume=auto")
    last = [line for line in heads.splitlines() if line.startswith("8,")]
    assert (tmp_path / "out/attention/heads.csv").read_text().splitlines()[1:] == last
    assert (tmp_path / "out/attention/timeline_induction.png").is_file()
    assert (tmp_path / "out/attention/grid_mean_ablation.png").is_file()
    for key in ("val_loss", "last_val_loss", "steps", "attention", "sample", "train_seconds"):
        assert again[key] == first[key]
    assert len(again["attention"]) == 2


def test_extended_run_has_the_rates_of_the_longer_schedule(tmp_path):
    steps = [*STEPS, "trainer.log_every_n_steps=1", "schedule=linear", "schedule.min_lr_ratio=0"]
    train(tmp_path, "whole", *steps, "trainer.max_steps=8")
    train(tmp_path, "extended", *steps, "trainer.max_steps=4")
    train(tmp_path, "extended", *steps, "trainer.max_steps=8", "resume=auto")
    rates = [[float(row["lr"]) for row in metrics(tmp_path / run)[4:]] for run in ("whole", "extended")]
    assert rates[0] == rates[1]
    assert min(rates[0]) > 0


def test_run_resumed_into_another_folder_has_its_own_best_checkpoint(tmp_path):
    steps = [*STEPS, "data.val_tokens=200", "trainer.max_steps=4"]
    train(tmp_path, "one", *steps)
    worse = [*steps[:-1], "trainer.max_steps=8", "resume=one"]
    assert load(tmp_path / train(tmp_path, "two", *worse)["checkpoint"]).about["step"] == 8


def test_resume_refuses_other_prompts(tmp_path):
    steps = [*STEPS, "trainer.max_steps=4", "callbacks.attention.every_n_steps=4"]
    train(tmp_path, "out", *steps)
    other = [*steps, "resume=auto", "callbacks.attention.prompts=[so they left]"]
    result = script_here("train", *arguments("out", other), cwd=tmp_path, ok=False)
    assert result.returncode == 2
    assert "callbacks.attention.prompts=['so they left'] differs from [] in out/checkpoints/last.ckpt" in result.stderr


def test_finished_run_is_reported_and_another_run_is_not_overwritten(run):
    cwd, folder, _ = run
    finished = ["run_dir=out", *STEPS, "data.global_batch_size=10", "trainer.max_steps=10"]
    finished += ['callbacks.attention.prompts=["The lions","so they left"]']
    before = (folder / "metrics.csv").read_bytes()
    result = script_here("train", *finished, "resume=auto", cwd=cwd)
    assert "out has finished: all 10 steps have been taken; raise trainer.max_steps to continue" in result.stderr
    refused = script_here("train", *finished, cwd=cwd, ok=False)
    assert refused.returncode == 2
    assert "run_dir=out already holds a run; give resume=auto to continue it" in refused.stderr
    for change, message in (
        ("model.n_layer=3", "model.n_layer=3 differs from 2"),
        ("tokenizer=bpe", "data: the text, its split or its tokenizer differs"),
        ("data.val_fraction=0.2", "data: the text, its split or its tokenizer differs"),
        ("optimizer.lr=1e-5", "optimizer.lr=1e-05 differs from 0.004"),
        ("data.global_batch_size=5", "data.global_batch_size=5 differs from 10"),
        ("resume=out/metrics.csv", "resume=out/metrics.csv cannot be read as a checkpoint"),
    ):
        result = script_here("train", *finished, "trainer.max_steps=12", "resume=auto", change, cwd=cwd, ok=False)
        assert result.returncode == 2
        assert message in result.stderr
    assert (folder / "metrics.csv").read_bytes() == before
