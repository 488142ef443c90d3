"""Grids: one folder for all runs, whatever process they train in; failed runs are named and do not stop the others."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from headwise.files import locked_folder
from headwise.launch import CONFIGS, register_schemas
from tests.small import ROOT, listen, script, script_here
from tests.sweep.small import TINIEST, table


def test_grid_ends_with_a_table_of_what_varies(tmp_path, monkeypatch):
    """And each job returns its loss to Hydra, None if it failed."""
    returned = []
    monkeypatch.setattr(
        "headwise.sweep.multirun.Multirun.on_job_end",
        lambda self, config, job_return, **_: returned.append(job_return.return_value),
    )
    grid = ["optimizer.lr=0.01,1e30", "seed=5,7", "-m", "run_dir=out"]
    result = script_here("train", *TINIEST, *grid, cwd=tmp_path, ok=False)
    assert result.returncode == 1
    rows = table(tmp_path / "out")
    assert [(row["run"], row["optimizer.lr"], row["seed"]) for row in rows] == [
        ("0", "0.01", "5"),
        ("1", "0.01", "7"),
        ("2", "1e+30", "5"),
        ("3", "1e+30", "7"),
    ]
    assert [row["state"] for row in rows] == ["complete", "complete", "failed", "failed"]
    for row in rows[:2]:
        summary = json.loads((tmp_path / "out" / row["run"] / "summary.json").read_text())
        assert float(row["val_loss"]) == summary["val_loss"] == returned[int(row["run"])]
    assert returned[2:] == [None, None]
    assert "headwise: run 1 (of 4): optimizer.lr=0.01,seed=7" in result.stderr
    assert "error: 2 of 4 runs failed; run 2: the training diverged by step" in result.stderr
    assert "Traceback" not in result.stderr
    assert "best             run" in result.stdout


def test_interrupted_grid_continues_and_repeats_nothing(tmp_path):
    """One run is complete, one has failed for a reason that is gone, one has not started."""
    grid = ["-m", "run_dir=out", "resume=auto"]
    script_here("train", *TINIEST, "seed=5", *grid, cwd=tmp_path)
    before = (tmp_path / "out/0/metrics.csv").stat().st_mtime_ns
    (tmp_path / "out/1").mkdir()
    (tmp_path / "out/1/ended.json").write_text('{"state": "failed", "why": "x", "code": 1, "overrides": ["seed=7"]}')
    script_here("train", *TINIEST, "seed=5,7,11", *grid, cwd=tmp_path)
    assert (tmp_path / "out/0/metrics.csv").stat().st_mtime_ns == before
    assert [(row["seed"], row["state"]) for row in table(tmp_path / "out")] == [
        (s, "complete") for s in ("5", "7", "11")
    ]


def test_grid_in_which_nothing_can_be_trained_leaves_no_files(tmp_path):
    for wrong in ("model.n_embd=9,11", "model.n_lyer=1,2"):
        result = script_here("train", *TINIEST, "-m", wrong, "run_dir=out", cwd=tmp_path, ok=False)
        assert (result.returncode, result.stdout) == (2, "")
        assert not list(tmp_path.glob("out/*"))


def test_grid_that_cannot_run_is_refused_and_changes_nothing(tmp_path):
    for held, wrong, message in (
        ("0", ["seed=5,7"], "run_dir=out already holds runs; give resume=auto to continue them, or another run_dir"),
        ("study", ["seed=5,7"], "run_dir=out holds a search of headwise sweep; give another run_dir"),
        ("other", ["seed=5,7,5"], "-m: two of the runs are the same: seed=5; leave one out"),
    ):
        folder = tmp_path / held / "out"
        (folder / held).mkdir(parents=True)
        (folder / held / "config.yaml").write_text("content")
        result = script_here("train", *TINIEST, "-m", *wrong, "run_dir=out", cwd=tmp_path / held, ok=False)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.startswith(f"error: {message}")
        assert [path.name for path in folder.rglob("*")] == [held, "config.yaml"]
    result = script_here("train", "seed=5,7", cwd=tmp_path, ok=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: seed=5,7: several values make several runs, with -m; a list")


def test_grid_counts_the_runs_of_every_hydra_sweep_syntax(tmp_path):
    """glob(*) needs Hydra's own list of a group's files; of a key given twice the last value counts."""
    syntax = ["seed=range(1,3)", "model=glob(*)", "optimizer.lr=1,2", "optimizer.lr=choice(1e-2)", "logger=csv,none"]
    wrong = "model.n_embd=9"  # ends each run at once
    result = script_here("train", *TINIEST, *syntax, wrong, "-m", "run_dir=out", cwd=tmp_path, ok=False)
    assert "headwise: run 7 (of 8): logger=none,model=qwen3,optimizer.lr=0.01,seed=2" in result.stderr
    assert "run 8" not in result.stderr
    assert "Warning" not in result.stderr


def test_run_of_a_grid_that_another_process_writes_fails_alone(tmp_path):
    with locked_folder(tmp_path / "out/0", "run_dir"):
        result = script_here("train", *TINIEST, "-m", "seed=5,7", "run_dir=out", cwd=tmp_path, ok=False)
    assert result.returncode == 1
    assert "error: run 0: run_dir=out/0 is being written by another process" in result.stderr
    assert [(row["run"], row["state"]) for row in table(tmp_path / "out")] == [("0", "failed"), ("1", "complete")]


def test_grid_with_joblib_has_the_losses_of_a_grid_in_one_process(tmp_path):
    """And one folder, although only the first process knows run_dir."""
    grid = [*TINIEST, "-m", "seed=5,7"]
    script_here("train", *grid, "run_dir=turn", cwd=tmp_path)
    result = script("train", *grid, "hydra/launcher=joblib", cwd=tmp_path)
    (folder,) = (tmp_path / "runs/quickstart").iterdir()
    assert [(row["seed"], row["val_loss"]) for row in table(folder)] == [
        (row["seed"], row["val_loss"]) for row in table(tmp_path / "turn")
    ]
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["0", "1"]
    assert "2 of 2 runs done" in result.stderr
    assert "Warning" not in result.stderr


def test_launcher_without_its_package_names_the_install_command(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = script_here("train", "-m", "hydra/launcher=joblib", "seed=1,2", cwd=tmp_path, ok=False)
    assert result.returncode == 2
    assert result.stderr == (
        "error: hydra/launcher=joblib needs the package hydra-joblib-launcher: pip install '.[sweep]'\n"
    )


@pytest.mark.parametrize("name", ["joblib", "slurm"])
def test_launchers_compose_and_their_keys_are_checked(name):
    from hydra.errors import ConfigCompositionException

    register_schemas()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [f"hydra/launcher={name}", "run_dir=x"], return_hydra_config=True)
        assert config.hydra.launcher._target_.lower().endswith(f"{name}launcher")
        with pytest.raises(ConfigCompositionException):
            compose("train", [f"hydra/launcher={name}", "hydra.launcher.partitoin=x"], return_hydra_config=True)


@pytest.mark.slow
def test_grid_with_submitit_has_one_folder(tmp_path):
    """submitit's local executor: what SLURM runs, without the queue."""
    script("train", *TINIEST, "-m", "seed=5,7", "hydra/launcher=submitit_local", cwd=tmp_path)
    (folder,) = (tmp_path / "runs/quickstart").iterdir()
    assert [row["state"] for row in table(folder)] == ["complete", "complete"]


SBATCH = """#!{python}
import os, re, subprocess, sys
script = open(sys.argv[1]).read()
open({log!r}, "w").write(script)
first, last = re.search(r"--array=(\\d+)-(\\d+)", script).groups()
for task in range(int(first), int(last) + 1):
    ours = {{"SLURM_JOB_ID": str(90 + task), "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": str(task),
             "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_PROCID": "0",
             "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "here"}}
    subprocess.Popen(["bash", sys.argv[1]], env=os.environ | ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job 77")
"""
SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do case "$1" in --output|--error) shift 2;; *) shift;; esac; done
exec "$@"
"""
SACCT = """#!/bin/bash
echo 'JobID|State|NodeList'; echo '77_0|RUNNING|here'; echo '77_1|RUNNING|here'
"""


@pytest.mark.slow
def test_grid_with_slurm_launcher_submits_jobs_that_train(tmp_path, monkeypatch):
    """On a machine without SLURM: sbatch, srun and sacct are small programs that run their arguments here."""
    log = str(tmp_path / "submitted.sh")
    tools = {"sbatch": SBATCH.format(python=sys.executable, log=log), "srun": SRUN, "sacct": SACCT}
    (tmp_path / "bin").mkdir()
    for name, text in tools.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    wanted = ["hydra/launcher=slurm", "hydra.launcher.partition=small", "hydra.launcher.gpus_per_node=0"]
    script("train", *TINIEST, "-m", "seed=5,7", "run_dir=out", *wanted, cwd=tmp_path)
    assert [(row["seed"], row["state"]) for row in table(tmp_path / "out")] == [("5", "complete"), ("7", "complete")]
    submitted = Path(log).read_text()
    for line in ("#SBATCH --partition=small", "#SBATCH --cpus-per-task=4", "#SBATCH --time=240", "#SBATCH --mem=16GB"):
        assert line in submitted


def endless_grid(cwd):
    """Start a grid of two runs in processes of joblib's that would take days; return it when both have started."""
    endless = [*TINIEST, "trainer.max_steps=1000000", "trainer.val_check_interval=100000", "-m", "seed=1,2"]
    command = [sys.executable, ROOT / "scripts/train.py", *endless, "run_dir=out", "hydra/launcher=joblib"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=cwd, preexec_fn=listen, start_new_session=True, **quiet)
    while not all((cwd / f"out/{i}/metrics.csv").exists() for i in range(2)):
        time.sleep(0.1)
        assert process.poll() is None
    return process


@pytest.mark.slow
def test_ctrl_c_stops_a_grid_with_joblib_with_one_line_and_130(tmp_path):
    process = endless_grid(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the same command with resume=auto run_dir=out continues" in said
    assert OmegaConf.load(tmp_path / "out/multirun.yaml")


@pytest.mark.slow
def test_processes_of_a_killed_grid_end_with_it(tmp_path):
    process = endless_grid(tmp_path)
    process.kill()
    process.wait()
    time.sleep(3)
    sizes = [
        [(tmp_path / f"out/{i}/metrics.csv").stat().st_size for i in range(2)] for _ in (1, 2) if not time.sleep(3)
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("syntax", ["seed=5,7", "seed=range(5,8,2)", "seed=choice(5,7)", "schedule=glob(co*)"])
def test_grid_in_every_syntax_of_hydra_ends_with_the_table_in_hydra_sweep_dir(tmp_path, syntax):
    result = script_here("train", *TINIEST, "-m", syntax, "hydra.sweep.dir=out", cwd=tmp_path)
    key = syntax.partition("=")[0]
    values = ["constant", "cosine"] if key == "schedule" else ["5", "7"]
    assert [row[key] for row in table(tmp_path / "out")] == values
    assert "table            out/sweep.csv" in result.stdout


def test_grid_of_an_interval_names_what_can_draw_from_it(tmp_path):
    result = script_here("train", *TINIEST, "-m", "optimizer.lr=interval(0.1,0.2)", cwd=tmp_path, ok=False)
    assert result.returncode == 2
    wanted = "error: -m: optimizer.lr=interval(0.1,0.2) needs a sweeper that draws values: headwise sweep with sweep.sp"
    assert result.stderr.startswith(wanted)
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


SWEEPER = '''
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


@dataclass
class Config:
    _target_: str = "hydra_plugins.halves.sweeper.Halves"


ConfigStore.instance().store(group="hydra/sweeper", name="halves", node=Config)


class Halves(Sweeper):
    """Halve an interval twice, each time towards the end with the lower result."""

    def setup(self, *, hydra_context, task_function, config):
        self.config, self.loader = config, hydra_context.config_loader
        given = {"hydra_context": hydra_context, "task_function": task_function, "config": config}
        self.launcher = Plugins.instance().instantiate_launcher(**given)

    def sweep(self, arguments):
        parsed = OverridesParser.create(self.loader).parse_overrides(arguments)
        fixed = [one.input_line for one in parsed if not one.is_sweep_override()]
        (varied,) = [one for one in parsed if one.is_interval_sweep()]
        low, high = varied.value().start, varied.value().end
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        for batch in range(2):
            jobs = [[*fixed, f"{varied.key_or_group}={value}"] for value in (low, high)]
            done = self.launcher.launch(jobs, initial_job_idx=2 * batch)
            results = [one.return_value for one in done]
            print("results", *results)
            middle = (low + high) / 2
            low, high = (low, middle) if results[0] < results[1] else (middle, high)
'''


def test_sweeper_of_another_package_gets_the_losses_and_ends_with_the_table(tmp_path):
    plugin = tmp_path / "plugins/hydra_plugins/halves"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").touch()
    (plugin / "sweeper.py").write_text(SWEEPER)
    command = [sys.executable, ROOT / "scripts/train.py", *TINIEST, "-m", "hydra/sweeper=halves", "run_dir=out"]
    command.append("optimizer.lr=interval(0.001,0.1)")
    paths = os.pathsep.join([str(tmp_path / "plugins"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = sorted(table(tmp_path / "out"), key=lambda row: int(row["run"]))
    printed = [line.split()[1:] for line in result.stdout.splitlines() if line.startswith("results")]
    assert [float(x) for pair in printed for x in pair] == [float(row["val_loss"]) for row in rows]
    assert [float(row["optimizer.lr"]) for row in rows][:2] == [0.001, 0.1]
    assert "best             run" in result.stdout
    assert "headwise: run 3: optimizer.lr=" in result.stderr
