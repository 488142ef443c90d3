"""The whole flow as a user runs it: train on real text, look, resume, generate."""

import csv
import json
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from PIL import Image

from headwise.checkpoint import load
from tests.browser.views import data_of
from tests.read_wandb import config as wandb_config
from tests.read_wandb import history
from tests.small import ROOT, TEXT, TINY, arguments, script, script_here, start_training, train

STEPS = [*TINY, "threads=1", "trainer.val_check_interval=4", "trainer.log_every_n_steps=2", "schedule.warmup_steps=2"]


def metrics(folder):
    return list(csv.DictReader((folder / "metrics.csv").open()))


def losses(folder):
    """What must be the same in two runs that are the same: everything but the clock and the machine."""
    clock = {"seconds", "tokens_per_second", "mfu", "memory_mb"}
    return [{key: value for key, value in row.items() if key not in clock} for row in metrics(folder)]


def weights(folder, name="last"):
    return torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Ten steps with everything on: the output of train.py, and where it ran."""
    cwd = tmp_path_factory.mktemp("run")
    wanted = ["run_dir=out", "trainer.max_steps=10", "callbacks.attention.every_n_steps=5"]
    wanted += ["callbacks.samples.every_n_steps=5", "callbacks.samples.tokens=20", "data.global_batch_size=10"]
    result = script("train", *STEPS, *wanted, 'callbacks.attention.prompts=["The lions","so they left"]', cwd=cwd)
    return cwd, cwd / "out", result


def test_the_run_leaves_what_the_readme_promises(run):
    _, folder, _ = run
    expected = ["config.yaml", "overrides.yaml", "metrics.csv", "samples.txt", "summary.json", "loss.png"]
    expected += ["checkpoints/last.ckpt", "checkpoints/best.ckpt", "attention/heads.csv", "attention/view.html"]
    for step in (0, 1, 4, 5, 10):
        expected += [f"attention/maps_{name}_step_{step:06d}.png" for name in ("prompt_1", "prompt_2", "repeats")]
    expected += [f"attention/grid_{name}.png" for name in ("previous_token", "induction", "mean_ablation")]
    expected += [f"attention/timeline_{name}.png" for name in ("previous_token", "first_token", "induction")]
    assert [name for name in expected if not (folder / name).is_file()] == []
    assert not list(folder.rglob("*.part"))


def test_the_end_of_the_run_names_loss_sample_maps_and_checkpoint(run):
    _, folder, result = run
    summary = json.loads((folder / "summary.json").read_text())
    assert f"validation loss  {summary['val_loss']:.4f} nats per token" in result.stdout
    assert "attention maps   out/attention/maps_prompt_1_step_000010.png" in result.stdout
    assert "attention page   out/attention/view.html" in result.stdout
    assert "checkpoint       out/checkpoints/best.ckpt" in result.stdout
    assert "wandb sync out/wandb/" in result.stdout
    assert summary["sample"].splitlines()[0] in result.stdout
    assert summary["train_tokens"] == 10 * 10 * 24
    assert summary["steps"] == 10


def test_a_line_per_validation_appears_where_there_is_no_terminal(run):
    lines = [line for line in run[2].stderr.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["4/10", "8/10", "10/10"]
    assert "Traceback" not in run[2].stderr
    assert "Warning" not in run[2].stderr


def test_metrics_have_a_row_per_moment_and_validation_covers_the_last_step(run):
    _, folder, _ = run
    rows = metrics(folder)
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8, 10]
    assert [int(row["step"]) for row in rows if row["val_loss"]] == [4, 8, 10]
    best = min((row for row in rows if row["val_loss"]), key=lambda row: float(row["val_loss"]))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["val_loss"] == float(best["val_loss"])
    assert load(folder / "checkpoints/best.ckpt").about["val_loss"] == summary["val_loss"]
    assert all(float(row["train_loss"]) > 0 and float(row["grad_norm"]) > 0 for row in rows)
    assert float(rows[0]["lr"]) == 4e-3  # the quickstart's, after a warmup of two steps


def test_the_offline_wandb_run_holds_pictures_and_numbers_at_their_steps(run):
    _, folder, _ = run
    (log,) = folder.glob("wandb/offline-run-*/*.wandb")
    moments = list(history(log))
    maps = {m["trainer/global_step"]: m for m in moments if "attn/maps/prompt_1" in m}
    assert sorted(maps) == [0, 1, 4, 5, 10]
    assert [step for step, m in maps.items() if "attn/view" in m and "heads/table" in m] == [10]
    assert (log.parent / "files" / maps[10]["attn/view"]["path"]).read_text() == (
        folder / "attention/view.html"
    ).read_text()
    for step, moment in maps.items():
        for i in (1, 2):
            image = log.parent / "files" / moment[f"attn/maps/prompt_{i}"]["path"]
            assert (
                Image.open(image).tobytes()
                == Image.open(folder / f"attention/maps_prompt_{i}_step_{step:06d}.png").tobytes()
            )
    heads = list(csv.DictReader((folder / "attention/heads.csv").open()))
    for metric, model_input in (("entropy", "val"), ("previous_token", "val"), ("induction", "repeats")):
        scores = [float(row[metric]) for row in heads if (row["step"], row["input"]) == ("5", model_input)]
        assert maps[5][f"heads/{metric}/max"] == pytest.approx(max(scores))
        assert maps[5][f"heads/{metric}/mean"] == pytest.approx(sum(scores) / 4)
        assert (log.parent / "files" / maps[5][f"heads/{metric}"]["path"]).is_file()
    scalars = {m["trainer/global_step"]: m for m in moments if "train_loss" in m}
    assert {step: m["train_loss"] for step, m in scalars.items()} == {
        int(row["step"]): float(row["train_loss"]) for row in metrics(folder)
    }
    assert {step for step, m in scalars.items() if "val_loss" in m} == {4, 8, 10}
    assert wandb_config(log)["model"]["n_layer"] == 2


def test_generation_continues_the_prompt_and_repeats_with_the_seed(run):
    cwd, folder, _ = run
    first, again, other = (
        script(
            "generate", "--checkpoint", folder, "--prompt", "def ", "--max-new-tokens", 30, "--top-k", 9, *seed, cwd=cwd
        )
        for seed in (["--seed", 1], ["--seed", 1], ["--seed", 2])
    )
    assert first.stdout.startswith("def ")
    assert len(first.stdout) == len("def ") + 30 + 1
    assert first.stdout == again.stdout != other.stdout
    assert "best.ckpt" in first.stderr


def test_generation_refuses_what_the_tokenizer_does_not_know(run):
    cwd, folder, _ = run
    result = script_here("generate", "--checkpoint", folder, "--prompt", "a€", cwd=cwd, ok=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("error: --prompt holds characters the tokenizer has no token for")


@pytest.mark.parametrize("interruption", ["SIGKILL", "SIGINT", "SIGTERM", "more steps"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, interruption):
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


def same_state(one, other):
    """Whether two runs ended with the same weights and the same state of the optimizer, bit for bit."""
    a, b = (torch.load(folder / "checkpoints/last.ckpt", weights_only=True) for folder in (one, other))
    states = [saved["optimizer_states"][0]["state"] for saved in (a, b)]
    assert all(torch.equal(a["state_dict"][name], b["state_dict"][name]) for name in a["state_dict"])
    for i, state in states[0].items():
        assert all(torch.equal(torch.as_tensor(state[k]), torch.as_tensor(states[1][i][k])) for k in state)
    return states[0].keys() == states[1].keys()


@pytest.mark.slow
def test_twenty_interruptions_at_random_moments_leave_no_trace(tmp_path):
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


@pytest.mark.slow
def test_induction_heads_form_in_two_layers_and_not_in_one(tmp_path):
    """Previous-token heads in layer 0, induction heads in layer 1; the loss on repeats falls (Olsson et al. 2022)."""
    best = {}
    for layers in (2, 1):
        quiet = ["logger=none", "callbacks.samples.every_n_steps=null", "seed=1", f"model.n_layer={layers}"]
        script_here("train", "experiment=induction", f"run_dir={layers}", *quiet, cwd=tmp_path)
        rows = list(csv.DictReader((tmp_path / f"{layers}/attention/heads.csv").open()))
        repeats = list(csv.DictReader((tmp_path / f"{layers}/attention/repeats.csv").open()))[-1]
        last = [row for row in rows if row["step"] == "800" and row["input"] == "repeats"]
        for layer, metric in ((0, "previous_token"), (layers - 1, "induction")):
            best[layers, metric] = max(float(row[metric]) for row in last if row["layer"] == str(layer))
        best[layers, "loss"] = float(repeats["repeated_loss"]) / float(repeats["first_loss"])
    assert best[2, "previous_token"] > 0.9
    assert best[2, "induction"] > 0.9
    assert best[2, "loss"] < 0.05
    assert best[1, "induction"] < 0.2
    assert best[1, "loss"] > 0.5


def test_two_processes_give_the_losses_of_one_with_the_same_global_batch(tmp_path):
    """Over gloo. The same numbers to rounding, since sums are taken in another order; one folder, one writer."""
    steps = [*STEPS, "trainer.max_steps=8", "data.global_batch_size=12", "model.dropout=0.0", "trainer=cpu"]
    train(tmp_path, "one", *steps, "data.batch_size=6")
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=3"]
    two += ["callbacks.attention.every_n_steps=4"]
    script("train", *arguments("two", [*steps, *two]), cwd=tmp_path)
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        for key in ("step", "tokens", "train_loss", "val_loss", "grad_norm", "lr"):
            assert (a[key] == b[key] == "") or float(a[key]) == pytest.approx(float(b[key]), rel=1e-4), key
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()].count("two") == 1
    assert len(list((tmp_path / "two/attention").glob("maps_text_step_*.png"))) == 4
    a, b = (weights(tmp_path / run) for run in ("one", "two"))
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


def test_an_estimate_says_what_a_run_takes_and_starts_nothing(tmp_path):
    done = script_here("train", *arguments("run", ["estimate=true", "data.global_batch_size=20"]), cwd=tmp_path)
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert list(lines) == ["parameters", "text", "tokens", "arithmetic", "memory", "time"]
    assert lines["tokens"].startswith("480 a step, ")  # 20 windows of 24
    assert not (tmp_path / "run").exists()


def test_an_estimate_refuses_what_training_would_refuse(tmp_path):
    (tmp_path / "short.txt").write_text("too short a text " * 3)
    for wrong, message in (
        (["data=files", "data.path=short.txt", "model.block_size=100"], "model.block_size=100 must be below the"),
        (["callbacks.attention.prompts=[x]", "callbacks.attention.every_n_steps=5"], "('x') has fewer than two tokens"),
    ):
        done = script_here("train", *arguments("run", ["estimate=true", *wrong]), cwd=tmp_path, ok=False)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stdout == ""


def test_the_memory_that_is_estimated_is_that_of_one_forward_pass(tmp_path):
    wide = ["estimate=true", "model.n_embd=64", "data.global_batch_size=80"]
    held = []
    for batch_size in (10, 40):
        done = script_here("train", *arguments("run", [*wide, f"data.batch_size={batch_size}"]), cwd=tmp_path)
        held.append(int(re.search(r"activations ([\d,]+)", done.stdout)[1].replace(",", "")))
    assert held[1] == pytest.approx(4 * held[0], rel=0.2)
    assert held[0] > 3  # megabytes


def test_a_part_of_the_validation_text_is_enough_while_training_and_the_end_counts_all(tmp_path):
    steps = [*STEPS, "trainer.max_steps=6", "trainer.val_check_interval=3"]
    whole = train(tmp_path, "whole", *steps)
    part = train(tmp_path, "part", *steps, "data.val_tokens=500")
    assert metrics(tmp_path / "part")[-1]["train_loss"] == metrics(tmp_path / "whole")[-1]["train_loss"]
    assert part["last_val_loss"] != whole["last_val_loss"]
    assert part["best_step"] == whole["best_step"] == 6
    assert part["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-5)


def test_a_run_that_gets_no_better_stops_early_and_stays_stopped(tmp_path):
    steps = [*STEPS, "trainer.max_steps=30", "trainer.val_check_interval=2", "optimizer.lr=1e-12"]
    steps += ["callbacks.early_stopping.patience=2", "schedule=constant"]
    summary = train(tmp_path, "run", *steps)
    assert summary["steps"] < 30
    again = script_here("train", "run_dir=run", *steps, "resume=auto", cwd=tmp_path)
    assert f"run has finished: it stopped early at step {summary['steps']}" in again.stderr
    (tmp_path / "run/summary.json").unlink()  # as if it had been interrupted just before
    assert train(tmp_path, "run", *steps, "resume=auto")["steps"] == summary["steps"]
    assert len(metrics(tmp_path / "run")) == int(summary["steps"]) // 2


def test_a_compiled_run_learns_what_an_uncompiled_one_does(tmp_path):
    steps = [*STEPS, "trainer.max_steps=5", "trainer.val_check_interval=5", "model.n_layer=1"]
    train(tmp_path, "eager", *steps, "compile=false")
    seen = ["callbacks.attention.every_n_steps=5", "callbacks.samples.every_n_steps=5"]
    train(tmp_path, "compiled", *steps, "compile=true", *seen)
    for a, b in zip(metrics(tmp_path / "eager"), metrics(tmp_path / "compiled"), strict=True):
        assert float(a["train_loss"]) == pytest.approx(float(b["train_loss"]), rel=1e-4)
    assert set(weights(tmp_path / "eager")) == set(weights(tmp_path / "compiled"))


def test_without_a_compiler_a_run_says_so_and_goes_on(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    run = ["compile=true", "trainer.max_steps=2", "trainer.val_check_interval=2"]
    done = script_here("train", *arguments("run", [*STEPS, *run]), cwd=tmp_path)
    assert "compile: no compiler works here (no C++ compiler); training without" in done.stderr


def test_the_same_seed_gives_the_same_losses_with_maps_samples_and_logger_on_or_off(tmp_path):
    common = [*STEPS, "trainer.max_steps=6", "model.dropout=0.2"]
    train(tmp_path, "off", *common)
    train(
        tmp_path,
        "on",
        *common,
        "callbacks.attention.every_n_steps=2",
        "callbacks.samples.every_n_steps=2",
        "logger=wandb",
    )
    train(tmp_path, "other", *common, "seed=7")
    assert losses(tmp_path / "on") == losses(tmp_path / "off") != losses(tmp_path / "other")


def test_validation_loss_does_not_depend_on_the_batch_size(tmp_path):
    """Two runs whose models are the same: a rate too small to move a float32 weight."""
    still = [
        *STEPS,
        "trainer.max_steps=1",
        "optimizer.lr=1e-30",
        "optimizer.muon_lr=1e-30",
        "optimizer.weight_decay=0",
        "model.init=scaled_normal",
    ]
    a = train(tmp_path, "a", *still, "data.batch_size=3")
    b = train(tmp_path, "b", *still, "data.batch_size=31")
    assert a["val_loss"] == b["val_loss"]


def test_a_run_stopped_by_its_time_limit_validates_and_saves_where_it_stopped(tmp_path):
    summary = train(tmp_path, "out", *STEPS, "trainer.max_steps=100000", "trainer.max_time=00:00:00:02")
    rows = metrics(tmp_path / "out")
    assert 0 < summary["steps"] == int(rows[-1]["step"]) < 100000
    assert float(rows[-1]["val_loss"]) == summary["last_val_loss"]
    assert load(tmp_path / "out/checkpoints/last.ckpt").about["step"] == summary["steps"]


def test_a_run_stopped_in_the_middle_of_an_accumulated_step_ends_the_step_first(tmp_path):
    limit = ["trainer.max_steps=100000", "trainer.max_time=00:00:00:01", "data.global_batch_size=35"]
    train(tmp_path, "out", *STEPS, *limit)
    saved = torch.load(tmp_path / "out/checkpoints/last.ckpt", weights_only=True)
    batches = saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"]
    assert batches == 7 * saved["global_step"]


def test_a_run_moved_elsewhere_keeps_its_best_checkpoint_when_resumed(tmp_path):
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


def test_a_run_killed_before_its_summary_gets_it_when_resumed(tmp_path):
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


def test_an_extended_run_has_the_rates_of_the_longer_schedule_from_its_first_step(tmp_path):
    steps = [*STEPS, "trainer.log_every_n_steps=1", "schedule=linear", "schedule.min_lr_ratio=0"]
    train(tmp_path, "whole", *steps, "trainer.max_steps=8")
    train(tmp_path, "extended", *steps, "trainer.max_steps=4")
    train(tmp_path, "extended", *steps, "trainer.max_steps=8", "resume=auto")
    rates = [[float(row["lr"]) for row in metrics(tmp_path / run)[4:]] for run in ("whole", "extended")]
    assert rates[0] == rates[1]
    assert min(rates[0]) > 0


def test_a_run_gone_on_with_in_another_folder_has_a_best_checkpoint_of_its_own(tmp_path):
    steps = [*STEPS, "data.val_tokens=200", "trainer.max_steps=4"]
    train(tmp_path, "one", *steps)
    worse = [*steps[:-1], "trainer.max_steps=8", "resume=one"]
    assert load(tmp_path / train(tmp_path, "two", *worse)["checkpoint"]).about["step"] == 8


def test_a_resumed_run_shows_the_same_prompts(tmp_path):
    steps = [*STEPS, "trainer.max_steps=4", "callbacks.attention.every_n_steps=4"]
    train(tmp_path, "out", *steps)
    other = [*steps, "resume=auto", "callbacks.attention.prompts=[so they left]"]
    result = script_here("train", *arguments("out", other), cwd=tmp_path, ok=False)
    assert result.returncode == 2
    assert "callbacks.attention.prompts=['so they left'] differs from [] in out/checkpoints/last.ckpt" in result.stderr


def test_a_run_that_diverges_stops_with_one_line(tmp_path):
    wild = [*TINY, *STEPS, "logger=none", "run_dir=out", "optimizer.lr=1e30", "trainer.max_steps=50", "model=gpt2"]
    result = script_here("train", *wild, "callbacks.attention.every_n_steps=3", cwd=tmp_path, ok=False)
    assert result.returncode == 1
    assert "error: the training diverged by step" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_users_own_file_trains_with_bpe(tmp_path):
    (tmp_path / "my text.txt").write_text("The kids were scared of the lions, so they left right away. 🦁\n" * 80)
    own = ["data=files", 'data.path="my text.txt"', "tokenizer=bpe", "tokenizer.vocab_size=280", "model=gpt2"]
    summary = train(tmp_path, "out", *STEPS, *own, "trainer.max_steps=4", "callbacks.attention.every_n_steps=4")
    assert summary["val_bits_per_byte"] > 0
    assert (tmp_path / "out/attention/maps_text_step_000004.png").is_file()
    result = script_here("generate", "--prompt", "日本 ", "--checkpoint", "out", "--max-new-tokens", 5, cwd=tmp_path)
    assert result.stdout.startswith("日本 ")


def test_a_finished_run_says_so_and_another_run_is_not_overwritten(run):
    cwd, folder, _ = run
    finished = ["run_dir=out", *STEPS, "data.global_batch_size=10", "trainer.max_steps=10"]
    finished += ['callbacks.attention.prompts=["The lions","so they left"]']
    before = (folder / "metrics.csv").read_bytes()
    result = script_here("train", *finished, "resume=auto", cwd=cwd)
    assert "out has finished: 10 steps are taken; raise trainer.max_steps to continue" in result.stderr
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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--top-k", "many"], "argument --top-k: invalid int value: 'many'"),
        (["--top-k", "0"], "top_k=0 must be at least 1"),
        (["--temperature", "-1"], "temperature=-1.0 must be at least 0"),
        (["--seed", "-1"], "seed=-1 must be at least 0"),
        (["--prompt", ""], "the prompt is empty"),
        (["--checkpoint", "nowhere"], "checkpoint=nowhere is neither here nor to be had from the Hub"),
        (["--checkpoint", "no/where/at/all"], "checkpoint=no/where/at/all does not exist"),
        (["--max-tokens", "5"], "unrecognized arguments: --max-tokens 5"),
    ],
)
def test_wrong_flags_are_one_line_and_exit_code_2(run, flags, message):
    cwd, folder, _ = run
    given = ["--prompt", "def ", "--checkpoint", folder, *flags]
    result = script_here("generate", *given, cwd=cwd, ok=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith(f"error: {message}")


def test_a_reader_who_has_had_enough_is_no_error(run):
    cwd, folder, _ = run
    command = f"{sys.executable} {ROOT}/scripts/generate.py --prompt 'def ' --checkpoint {folder} | head -c 5"
    result = subprocess.run(command, shell=True, capture_output=True, cwd=cwd, check=False)
    assert result.stdout.startswith(b"def ")
    assert len(result.stdout) == 5
    assert b"Error" not in result.stderr


def test_samples_and_prompts_come_out_together_in_one_object_or_one_after_the_other(run):
    cwd, folder, _ = run
    flags = ["--checkpoint", folder, "--max-new-tokens", 9, "--num-samples", 2, "--seed", 5, "--prompt", "def", "class"]
    told = json.loads(script_here("generate", *flags, "--json", cwd=cwd).stdout)
    assert told["prompt"] == ["def", "class"]
    assert [(one["prompt"], one["seed"]) for one in told["samples"]] == [(p, s) for p in told["prompt"] for s in (5, 6)]
    assert all(len(one["tokens"]) == len(one["logprobs"]) == 9 for one in told["samples"])
    assert told["tokens_per_second"] > 0 < told["first_token_seconds"]
    assert told["checkpoint"].endswith("best.ckpt")
    plain = script_here("generate", *flags, cwd=cwd).stdout
    for number, one in enumerate(told["samples"]):
        assert f"==== prompt {number // 2 + 1}, seed {one['seed']}\n{one['prompt']}{one['text']}\n" in plain
        alone = [*flags[:4], "--seed", one["seed"], "--prompt", one["prompt"]]
        assert script_here("generate", *alone, cwd=cwd).stdout == f"{one['prompt']}{one['text']}\n"


def test_the_page_of_a_generated_text_shows_its_very_tokens(run):
    cwd, folder, _ = run
    flags = ["--checkpoint", folder, "--max-new-tokens", 9, "--prompt", "def", "class", "--attention", "told.html"]
    told = json.loads(script_here("generate", *flags, "--json", cwd=cwd).stdout)
    page = (cwd / "told.html").read_text()
    data = data_of(page)
    assert [prompt["new"] for prompt in data["prompts"]] == [len("def"), len("class")]
    for prompt, one in zip(data["prompts"], told["samples"], strict=True):
        shown = "".join(prompt["labels"]).replace("␣", " ").replace("⏎", "\n")
        assert shown == one["prompt"] + one["text"]
    assert data["start"] == {"query": len("def") - 1}  # from which the first token was chosen
    for wrong in ("told.png", "."):
        refused = script_here("generate", *flags[:-1], wrong, cwd=cwd, ok=False)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert f"--attention={wrong}" in refused.stderr


def test_a_session_keeps_what_was_said_in_view(run):
    """Two lines of a session are the text, a newline and the next line as one prompt."""
    cwd, folder, _ = run
    flags = ["--checkpoint", str(folder), "--max-new-tokens", "12", "--temperature", "0.7"]
    session = [sys.executable, ROOT / "scripts/generate.py", *flags, "--seed", "3", "--interactive"]
    given = "import\n日\nclass A"
    talk = subprocess.run(session, input=given, capture_output=True, text=True, cwd=cwd, check=True)
    assert "'日' at 0" in talk.stderr
    first = script_here("generate", *flags, "--seed", "3", "--prompt", "import", cwd=cwd).stdout
    whole = script_here("generate", *flags, "--seed", "4", "--prompt", f"{first}class A", cwd=cwd).stdout
    assert talk.stdout == whole
    assert "24 tokens in" in talk.stderr
    for wrong in (["--json"], ["--num-samples", "2"], ["--attention", "a.html"], ["--prompt", "a", "b"]):
        refused = script_here("generate", *flags, "--interactive", *wrong, cwd=cwd, ok=False)
        assert refused.returncode == 2
        assert "--interactive continues one text" in refused.stderr


def test_a_prompt_comes_from_a_file_or_from_standard_input(run):
    cwd, folder, _ = run
    (cwd / "prompt.txt").write_text("import this\n")
    flags = ["--checkpoint", str(folder), "--max-new-tokens", "5", "--greedy"]
    given = script_here("generate", *flags, "--prompt", "import this\n", cwd=cwd).stdout
    assert script_here("generate", *flags, "--prompt-file", "prompt.txt", cwd=cwd).stdout == given
    piped = [sys.executable, ROOT / "scripts/generate.py", *flags, "--prompt-file", "-"]
    assert subprocess.run(piped, input="import this\n", capture_output=True, text=True, cwd=cwd).stdout == given
    (cwd / "latin.txt").write_bytes(b"caf\xe9")
    for wrong, message in (
        (["--prompt-file", "latin.txt"], "--prompt-file latin.txt is not UTF-8 at byte 3"),
        (["--prompt-file", "absent.txt"], "absent.txt: No such file"),
        (["--prompt", "a", "--prompt-file", "prompt.txt"], "give one of --prompt TEXT and --prompt-file FILE"),
        ([], "give one of --prompt TEXT and --prompt-file FILE"),
    ):
        refused = script_here("generate", *flags, *wrong, cwd=cwd, ok=False)
        assert refused.returncode == 2
        assert message in refused.stderr.splitlines()[-1]


def test_evaluation_gives_the_loss_of_the_summary_and_of_any_other_text(run):
    cwd, folder, _ = run
    summary = json.loads((folder / "summary.json").read_text())
    told = json.loads(script_here("evaluate", "--checkpoint", folder, "--json", cwd=cwd).stdout)
    assert told["loss"] == pytest.approx(summary["val_loss"], abs=1e-5)
    assert told["bits_per_byte"] == pytest.approx(summary["val_bits_per_byte"], abs=1e-5)
    (cwd / "other.txt").write_text("import this\n" * 30)
    plain = script_here("evaluate", "--checkpoint", folder, "--data", "other.txt", cwd=cwd).stdout
    assert plain.splitlines()[-1] == "tokens         360"
    for wrong, message in (
        (["--data", "absent.txt"], "--data=absent.txt names no file"),
        (["--data", "other.txt", "--split", "val"], "--split val is a part of the text that the model trained on"),
    ):
        refused = script_here("evaluate", "--checkpoint", folder, *wrong, cwd=cwd, ok=False)
        assert refused.returncode == 2
        assert message in refused.stderr.splitlines()[-1]


def test_evaluation_says_when_the_text_of_the_training_has_changed(tmp_path):
    (tmp_path / "my.txt").write_text(TEXT)
    train(tmp_path, "out", "data=files", "data.path=my.txt", "trainer.max_steps=1")
    changed = "has changed since"
    assert changed not in script_here("evaluate", "--checkpoint", "out", cwd=tmp_path).stderr
    (tmp_path / "my.txt").write_text(TEXT[:-1] + "!")
    assert changed in script_here("evaluate", "--checkpoint", "out", cwd=tmp_path, ok=False).stderr
    (tmp_path / "my.txt").unlink()
    gone = script_here("evaluate", "--checkpoint", "out", cwd=tmp_path, ok=False)
    assert gone.returncode == 2
    assert f"data.path=my.txt names no file in {tmp_path}" in gone.stderr


def test_unknown_characters_are_replaced_where_that_is_asked_for(run):
    cwd, folder, _ = run
    flags = ["--checkpoint", folder, "--max-new-tokens", 5]
    told = json.loads(script_here("generate", *flags, "--prompt", "5 €", "--replace-unknown", "--json", cwd=cwd).stdout)
    assert told["prompt"] == "5 ?"


def test_the_page_of_a_long_text_is_what_the_model_saw_last(run):
    """block_size is 24: of 4 + 50 tokens the last was chosen from those from number 36 on."""
    cwd, folder, _ = run
    flags = ["--checkpoint", folder, "--max-new-tokens", 50, "--prompt", "def ", "--attention", "long.html"]
    told = json.loads(script_here("generate", *flags, "--json", cwd=cwd).stdout)
    prompt = data_of((cwd / "long.html").read_text())["prompts"][0]
    whole = told["prompt"] + told["samples"][0]["text"]
    assert "".join(prompt["labels"]).replace("␣", " ").replace("⏎", "\n") == whole[36:]
    assert "18 of 54 tokens" in prompt["note"]
    assert prompt["new"] == 13  # number 48 was chosen when 24 to 48 were in view, number 49 from 36 on
    checkpoint = load(folder / "checkpoints/best.ckpt")
    with torch.no_grad():
        seen = checkpoint.model(torch.tensor([checkpoint.tokenizer.encode(whole[36:])])).log_softmax(-1)[0]
    told_of = told["samples"][0]
    again = [float(seen[t - 37, told_of["tokens"][t - 4]]) for t in range(49, 54)]
    assert again == pytest.approx(told_of["logprobs"][45:], abs=1e-4)


@pytest.mark.parametrize("where", ["given", "by default"])
def test_the_runs_of_a_multirun_have_folders_of_their_own_and_say_which_they_are(tmp_path, where):
    quiet = ["logger=none", "callbacks.attention.every_n_steps=null", "callbacks.samples.every_n_steps=null"]
    given = ["run_dir=both"] if where == "given" else []
    result = script_here("train", *STEPS, *quiet, "trainer.max_steps=2", "-m", "seed=1,2", *given, cwd=tmp_path)
    found = sorted(tmp_path.rglob("summary.json"))
    assert [file.parent.name for file in found] == ["0", "1"]
    folders = {file.parent.parent for file in found}
    assert len(folders) == 1
    assert (folders == {tmp_path / "both"}) == (where == "given")
    for seed, file in enumerate(found, start=1):
        assert f"seed={seed}" in json.loads(file.read_text())["overrides"]
        assert yaml.safe_load((file.parent / "config.yaml").read_text())["run_dir"] == str(
            file.parent.relative_to(tmp_path)
        )
    assert [line for line in result.stdout.splitlines() if line.startswith("overrides") and "seed=2" in line]
