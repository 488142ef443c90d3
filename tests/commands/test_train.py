"""headwise train: what a run prints, writes and logs, and how it ends."""

import csv
import json
import re

import pytest
import torch
import yaml
from PIL import Image

from headwise.checkpoint import load
from tests.read_wandb import config as wandb_config
from tests.read_wandb import history, offline_log
from tests.small import (
    STEPS,
    TINY,
    arguments,
    losses,
    metrics,
    script,
    script_here,
    train,
    weights,
)


def test_run_folder_holds_every_file_of_the_readme(run):
    _, folder, _ = run
    expected = ["config.yaml", "overrides.yaml", "metrics.csv", "samples.txt", "summary.json", "loss.png"]
    expected += ["checkpoints/last.ckpt", "checkpoints/best.ckpt", "attention/heads.csv", "attention/view.html"]
    for step in (0, 1, 4, 5, 10):
        expected += [f"attention/maps_{name}_step_{step:06d}.png" for name in ("prompt_1", "prompt_2", "repeats")]
    expected += [f"attention/grid_{name}.png" for name in ("previous_token", "induction", "mean_ablation")]
    expected += [f"attention/timeline_{name}.png" for name in ("previous_token", "first_token", "induction")]
    assert [name for name in expected if not (folder / name).is_file()] == []
    assert not list(folder.rglob("*.part"))


def test_run_ends_by_printing_loss_sample_maps_and_checkpoint(run):
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


def test_progress_without_a_terminal_is_a_line_per_validation(run):
    lines = [line for line in run[2].stderr.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["4/10", "8/10", "10/10"]
    assert "Traceback" not in run[2].stderr
    assert "Warning" not in run[2].stderr


def test_metrics_csv_has_a_row_per_logged_step_and_validates_the_last_one(run):
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


def test_offline_wandb_run_holds_pictures_and_numbers_at_their_steps(run):
    _, folder, _ = run
    log = offline_log(folder)
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
    assert len(scalars) == sum("train_loss" in m or "val_loss" in m for m in moments)  # one row a step
    assert {step: m["train_loss"] for step, m in scalars.items()} == {
        int(row["step"]): float(row["train_loss"]) for row in metrics(folder)
    }
    assert {step for step, m in scalars.items() if "val_loss" in m} == {4, 8, 10}
    assert wandb_config(log)["model"]["n_layer"] == 2


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


def test_estimate_prints_what_a_run_takes_and_starts_nothing(tmp_path):
    done = script_here("train", *arguments("run", ["estimate=true", "data.global_batch_size=20"]), cwd=tmp_path)
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert list(lines) == ["parameters", "text", "tokens", "arithmetic", "memory", "time"]
    assert lines["tokens"].startswith("480 a step, ")  # 20 windows of 24
    assert not (tmp_path / "run").exists()


def test_estimate_refuses_what_training_refuses(tmp_path):
    (tmp_path / "short.txt").write_text("too short a text " * 3)
    for wrong, message in (
        (["data=files", "data.path=short.txt", "model.block_size=100"], "model.block_size=100 must be below the"),
        (["callbacks.attention.prompts=[x]", "callbacks.attention.every_n_steps=5"], "('x') has fewer than two tokens"),
    ):
        done = script_here("train", *arguments("run", ["estimate=true", *wrong]), cwd=tmp_path, ok=False)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stdout == ""


def test_estimated_memory_is_that_of_one_forward_pass(tmp_path):
    wide = ["estimate=true", "model.n_embd=64", "data.global_batch_size=80"]
    held = []
    for batch_size in (10, 40):
        done = script_here("train", *arguments("run", [*wide, f"data.batch_size={batch_size}"]), cwd=tmp_path)
        held.append(int(re.search(r"activations ([\d,]+)", done.stdout)[1].replace(",", "")))
    assert held[1] == pytest.approx(4 * held[0], rel=0.2)
    assert held[0] > 3  # megabytes


def test_val_tokens_limits_validation_but_the_summary_covers_the_whole_split(tmp_path):
    steps = [*STEPS, "trainer.max_steps=6", "trainer.val_check_interval=3"]
    whole = train(tmp_path, "whole", *steps)
    part = train(tmp_path, "part", *steps, "data.val_tokens=500")
    assert metrics(tmp_path / "part")[-1]["train_loss"] == metrics(tmp_path / "whole")[-1]["train_loss"]
    assert part["last_val_loss"] != whole["last_val_loss"]
    assert part["best_step"] == whole["best_step"] == 6
    assert part["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-5)


def test_early_stopping_ends_a_run_and_resuming_does_not_continue_it(tmp_path):
    steps = [*STEPS, "trainer.max_steps=30", "trainer.val_check_interval=2", "optimizer.lr=1e-12"]
    steps += ["callbacks.early_stopping.patience=2", "schedule=constant"]
    summary = train(tmp_path, "run", *steps)
    assert summary["steps"] < 30
    again = script_here("train", "run_dir=run", *steps, "resume=auto", cwd=tmp_path)
    assert f"run has finished: it stopped early at step {summary['steps']}" in again.stderr
    (tmp_path / "run/summary.json").unlink()  # as if it had been interrupted just before
    assert train(tmp_path, "run", *steps, "resume=auto")["steps"] == summary["steps"]
    assert len(metrics(tmp_path / "run")) == int(summary["steps"]) // 2


def test_compiled_run_has_the_losses_of_an_uncompiled_one(tmp_path):
    steps = [*STEPS, "trainer.max_steps=5", "trainer.val_check_interval=5", "model.n_layer=1"]
    train(tmp_path, "eager", *steps, "compile=false")
    seen = ["callbacks.attention.every_n_steps=5", "callbacks.samples.every_n_steps=5"]
    train(tmp_path, "compiled", *steps, "compile=true", *seen)
    for a, b in zip(metrics(tmp_path / "eager"), metrics(tmp_path / "compiled"), strict=True):
        assert float(a["train_loss"]) == pytest.approx(float(b["train_loss"]), rel=1e-4)
    assert set(weights(tmp_path / "eager")) == set(weights(tmp_path / "compiled"))


def test_run_without_a_compiler_prints_why_and_trains_uncompiled(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    run = ["compile=true", "trainer.max_steps=2", "trainer.val_check_interval=2"]
    done = script_here("train", *arguments("run", [*STEPS, *run]), cwd=tmp_path)
    assert "compile: no compiler works here (no C++ compiler); training without" in done.stderr


def test_same_seed_gives_the_same_losses_with_maps_samples_and_logger_on_or_off(tmp_path):
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


def test_max_time_validates_and_saves_at_the_step_where_it_stops(tmp_path):
    summary = train(tmp_path, "out", *STEPS, "trainer.max_steps=100000", "trainer.max_time=00:00:00:02")
    rows = metrics(tmp_path / "out")
    assert 0 < summary["steps"] == int(rows[-1]["step"]) < 100000
    assert float(rows[-1]["val_loss"]) == summary["last_val_loss"]
    assert load(tmp_path / "out/checkpoints/last.ckpt").about["step"] == summary["steps"]


def test_max_time_within_an_accumulated_step_stops_after_the_step(tmp_path):
    limit = ["trainer.max_steps=100000", "trainer.max_time=00:00:00:01", "data.global_batch_size=35"]
    train(tmp_path, "out", *STEPS, *limit)
    saved = torch.load(tmp_path / "out/checkpoints/last.ckpt", weights_only=True)
    batches = saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"]
    assert batches == 7 * saved["global_step"]


def test_diverging_run_stops_with_one_line(tmp_path):
    wild = [*TINY, *STEPS, "logger=none", "run_dir=out", "optimizer.lr=1e30", "trainer.max_steps=50", "model=gpt2"]
    result = script_here("train", *wild, "callbacks.attention.every_n_steps=3", cwd=tmp_path, ok=False)
    assert result.returncode == 1
    assert "error: the training diverged by step" in result.stderr
    assert "Traceback" not in result.stderr


def test_own_file_trains_with_bpe(tmp_path):
    (tmp_path / "my text.txt").write_text("The kids were scared of the lions, so they left right away. 🦁\n" * 80)
    own = ["data=files", 'data.path="my text.txt"', "tokenizer=bpe", "tokenizer.vocab_size=280", "model=gpt2"]
    summary = train(tmp_path, "out", *STEPS, *own, "trainer.max_steps=4", "callbacks.attention.every_n_steps=4")
    assert summary["val_bits_per_byte"] > 0
    assert (tmp_path / "out/attention/maps_text_step_000004.png").is_file()
    result = script_here("generate", "--prompt", "日本 ", "--checkpoint", "out", "--max-new-tokens", 5, cwd=tmp_path)
    assert result.stdout.startswith("日本 ")


@pytest.mark.parametrize("where", ["given", "by default"])
def test_multirun_gives_each_run_its_folder_and_names_its_overrides(tmp_path, where):
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
