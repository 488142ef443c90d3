"""Several devices: real processes over gloo. The numbers are those of one device with the same global batch."""

import csv
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from headwise.data.sampler import TrainBatches
from tests.small import ROOT, arguments, script, script_here, train

STEPS = ["trainer.val_check_interval=4", "trainer.log_every_n_steps=2", "schedule.warmup_steps=2", "schedule=constant"]
STEPS += ["data.global_batch_size=12", "trainer.accelerator=cpu", "model.n_embd=20"]  # which 3 does not divide
SLURM = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1", "SLURM_NNODES": "1"}


def rows(file):
    with file.open() as opened:
        return list(csv.DictReader(opened))


def largest_difference(one, other, *keys):
    """Of two runs' metrics, relative to the first's."""
    pairs = zip(rows(one / "metrics.csv"), rows(other / "metrics.csv"), strict=True)
    differences = []
    for a, b in pairs:
        assert a["step"] == b["step"]
        assert [key for key in keys if bool(a[key]) != bool(b[key])] == []
        differences += [abs(float(a[key]) - float(b[key])) / float(a[key]) for key in keys if a[key]]
    assert len(differences) > len(keys)
    return max(differences)


def srun(count, cwd, *args, ok=True):
    """The script in `count` processes with the environment that SLURM's srun would give them."""
    command = [sys.executable, ROOT / "scripts/train.py", *args]
    shared = os.environ | SLURM | {"SLURM_NTASKS": str(count), "SLURM_NTASKS_PER_NODE": str(count)}
    running = []
    for i in range(count):
        own = {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i), "SLURM_NODEID": "0"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, cwd=cwd, env=shared | own, **pipes))
    done = [(*process.communicate(), process.returncode) for process in running]
    assert not ok or [code for *_, code in done] == [0] * count, done
    return done


def torchrun(count, cwd, *args):
    """The script under torchrun."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command = [*start, ROOT / "scripts/train.py", *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def windows(tokens, step, devices, batch, accumulate):
    """The first tokens of a step's windows, for each device."""
    seen = []
    for rank in range(devices):
        source = TrainBatches(tokens, 17, batch, seed=3, accumulate=accumulate, rank=rank, devices=devices)
        seen.append([int(start) for inputs, _ in source.steps(step, step + 1) for start in inputs[:, 0]])
    return seen


@pytest.mark.parametrize(("devices", "batch"), [(2, 6), (2, 3), (3, 4), (3, 2), (4, 3), (6, 1), (12, 1)])
def test_windows_of_the_devices_are_disjoint_and_together_the_global_batch(devices, batch):
    tokens = np.arange(1009, dtype=np.uint16)
    for step in (0, 1, 7):
        (whole,) = windows(tokens, step, 1, 12, 1)
        each = windows(tokens, step, devices, batch, 12 // (devices * batch))
        assert len(set(whole)) == 12
        assert all(set(a).isdisjoint(b) for a, b in itertools.combinations(each, 2))
        assert sorted(itertools.chain(*each)) == sorted(whole)


def test_no_window_is_doubled_or_missed_when_the_number_of_devices_changes():
    """An epoch of 58 windows: 4 steps of 12 on one device, two and three, and ten windows of the fifth on four."""
    tokens = np.arange(1009, dtype=np.uint16)
    seen = []
    for step, (devices, batch) in enumerate([(1, 12), (2, 6), (3, 2), (2, 3), (4, 3)]):
        seen += itertools.chain(*windows(tokens, step, devices, batch, 12 // (devices * batch)))
    (whole,) = zip(*(windows(tokens, step, 1, 12, 1) for step in range(5)), strict=True)
    assert sorted(seen) == sorted(itertools.chain(*whole))
    assert len(set(itertools.chain(*whole[:4]))) == 48  # no window twice within an epoch


def test_run_moves_between_sharded_single_and_replicated_devices(tmp_path):
    """Muon and a tied head: four steps with fsdp in two processes of srun, four on one device, four with ddp in two of
    torchrun with resume=auto and no run_dir; in all, the losses and heads of one device."""
    steps, snapshots = [*STEPS, "model=gpt2", "optimizer=muon"], "callbacks.attention.every_n_steps=4"
    run = arguments("", steps)
    run.remove("run_dir=")  # the processes have to agree on one
    one, two = ["data.batch_size=12"], ["data.batch_size=6"]
    train(tmp_path, "whole", *steps, "trainer.max_steps=12", *one, snapshots)
    (_, first, _), (out, other, _) = srun(2, tmp_path, *run, "trainer=fsdp", "trainer.max_steps=4", *two, snapshots)
    assert "device           2 x cpu" in first
    assert (out, other) == ("", "")  # only the first prints
    (folder,) = (tmp_path / "runs/quickstart").iterdir()
    assert len(list((folder / "attention").glob("maps_text_step_*.png"))) == 3
    script_here("train", *run, "trainer.max_steps=8", "resume=auto", *one, cwd=tmp_path)
    done = torchrun(2, tmp_path, *run, "trainer=ddp", "trainer.max_steps=12", "resume=auto", *two)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("step     12/12") == done.stdout.count("validation loss") == 1
    assert list((tmp_path / "runs/quickstart").iterdir()) == [folder]
    compared = ("train_loss", "val_loss", "grad_norm", "update_ratio", "lr")
    assert largest_difference(tmp_path / "whole", folder, *compared) < 1e-5
    whole, parts = (rows(path / "attention/heads.csv") for path in (tmp_path / "whole", folder))
    for a, b in zip([row for row in whole if int(row["step"]) <= 4], parts, strict=True):
        for key, value in a.items():  # after 4 steps, its last, the sharded run also has ablations and the like
            assert value in ("", b[key]) or float(b[key]) == pytest.approx(float(value), abs=1e-5), key
    saved = [torch.load(path / "checkpoints/last.ckpt", weights_only=True) for path in (tmp_path / "whole", folder)]
    assert saved[0].keys() == saved[1].keys()
    for name, weight in saved[0]["state_dict"].items():
        assert torch.allclose(weight, saved[1]["state_dict"][name], atol=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "devices", "batch", "optimizer"),
    [("ddp", 2, 3, "muon"), ("ddp", 3, 4, "adamw"), ("fsdp", 2, 3, "adamw"), ("fsdp", 3, 4, "muon")],
)
def test_fifty_steps_on_several_devices_are_fifty_on_one(tmp_path, strategy, devices, batch, optimizer):
    """Half of them, and then the other half with the other strategy, and on one device, and with the same."""
    steps = [*STEPS, f"optimizer={optimizer}", "callbacks.attention.every_n_steps=10"]
    several = [f"trainer.devices={devices}", f"data.batch_size={batch}"]
    train(tmp_path, "one", *steps, "data.batch_size=12", "trainer.max_steps=50")
    other = {"ddp": "fsdp", "fsdp": "ddp"}[strategy]
    script("train", *arguments("all", [*steps, f"trainer={strategy}", *several, "trainer.max_steps=50"]), cwd=tmp_path)
    script("train", *arguments("half", [*steps, f"trainer={strategy}", *several, "trainer.max_steps=24"]), cwd=tmp_path)
    half = str(tmp_path / "half")
    goes_on = [*steps, "trainer.max_steps=50", f"resume={half}"]
    for name, how in (("same", [f"trainer={strategy}", *several]), ("other", [f"trainer={other}", *several])):
        script("train", *arguments(name, [*goes_on, *how]), cwd=tmp_path)
    train(tmp_path, "alone", *goes_on, "data.batch_size=12")
    differences = {}
    for name in ("all", "same", "other", "alone"):
        if name != "all":  # in another folder: its table begins where it went on
            joined = (tmp_path / "half/metrics.csv").read_text().rstrip().splitlines()
            rest = (tmp_path / name / "metrics.csv").read_text().splitlines()[1:]
            (tmp_path / name / "metrics.csv").write_text("\n".join([*joined, *rest]) + "\n")
        differences[name] = largest_difference(tmp_path / "one", tmp_path / name, "train_loss", "val_loss")
    assert max(differences.values()) < 1e-5, differences
    heads = [rows(tmp_path / name / "attention/heads.csv") for name in ("one", "all")]
    for a, b in zip(*heads, strict=True):
        for key, value in a.items():
            assert b[key] == value or float(b[key]) == pytest.approx(float(value), abs=1e-3), key


BROKEN = """
import os
if os.environ.get("LOCAL_RANK") == "1":
    from headwise.errors import UserError
    from headwise.training import callbacks

    def broken(self, trainer, *rest):
        if trainer.global_step == 3:
            raise UserError("the disk of this device is full")

    callbacks.ProgressBar.on_train_batch_end = broken

from headwise.commands.train import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_error_of_one_process_ends_all_with_one_line(tmp_path, strategy):
    (tmp_path / "broken.py").write_text(BROKEN)
    steps = [*STEPS, f"trainer={strategy}", "trainer.devices=2", "data.batch_size=6", "trainer.max_steps=9"]
    command = [sys.executable, "broken.py", *arguments("run", steps)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("headwise: ", "step "))]
    assert lines == ["error: process 1: the disk of this device is full"]


@pytest.mark.slow
def test_process_of_another_device_ends_if_the_first_was_killed_before_they_connected(tmp_path):
    endless = [*arguments("run", STEPS), "trainer=ddp", "trainer.devices=2", "data.batch_size=6"]
    first = subprocess.Popen([sys.executable, ROOT / "scripts/train.py", *endless], cwd=tmp_path)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children")
    while not (others := children.read_text().split()):
        time.sleep(0.01)
    first.kill()
    first.wait()
    other, deadline = Path("/proc") / others[0], time.monotonic() + 60
    while other.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not other.exists()


@pytest.mark.slow
def test_error_of_all_processes_is_printed_first_by_the_first(tmp_path):
    wrong = [*arguments("run", STEPS), "trainer=ddp", "data.batch_size=5"]
    done = srun(2, tmp_path, *wrong, ok=False)
    assert [code for *_, code in done] == [2, 2]
    line = "data.global_batch_size=12 is not divisible by data.batch_size=5 x 2 devices"
    assert done[0][1].splitlines() == [f"error: {line}"]
    assert done[1][1].splitlines() == [
        f"error: process 1: {line}"
    ]  # srun --kill-on-bad-exit would have ended it before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["-m", "seed=1,2"], "-m does not go with 2 devices"),
        (["trainer=fsdp", "trainer.precision=64-true"], "trainer.precision=64-true does not go with"),
        (["trainer.num_nodes=2"], "trainer.num_nodes=2 needs torchrun or srun"),
        (["data.batch_size=5"], "data.global_batch_size=12 is not divisible by data.batch_size=5 x 2 devices"),
        (["trainer.devices=0"], "trainer.accelerator=cpu trainer.devices=0"),
        (["trainer.devices=999", "data.global_batch_size=null"], "trainer.devices=999 would start as many processes"),
    ],
)
def test_strategy_and_devices_that_do_not_go_together_are_one_line(tmp_path, given, message):
    run = [*arguments("run", STEPS), "data.batch_size=6", "trainer=ddp", "trainer.devices=2", *given]
    done = script_here("train", *run, cwd=tmp_path, ok=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert not (tmp_path / "run/config.yaml").exists()


def test_validate_processes_refuses_devices_that_torchrun_did_not_start(tmp_path, monkeypatch):
    together = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3", "LOCAL_RANK": "0"}
    for name, value in together.items():
        monkeypatch.setenv(name, value)
    run = [*arguments("run", STEPS), "trainer=ddp", "trainer.devices=2"]
    done = script_here("train", *run, cwd=tmp_path, ok=False)
    assert done.returncode == 2
    right = "the 6 processes that torchrun has started; give trainer.devices=3 trainer.num_nodes=2"
    assert f"error: trainer.devices=2 with trainer.num_nodes=1 does not make {right}" in done.stderr


@pytest.mark.parametrize("where", [["run_dir=run"], []])  # without one the processes have to meet to agree on it
def test_srun_must_say_how_many_processes_are_on_a_node(tmp_path, monkeypatch, where):
    for name, value in (SLURM | {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}).items():
        monkeypatch.setenv(name, value)
    done = script_here("train", "trainer=ddp", "trainer.accelerator=cpu", *where, cwd=tmp_path, ok=False)
    assert done.returncode == 2
    assert done.stderr == "error: srun: give --ntasks-per-node=N, one for each device of a node\n"
