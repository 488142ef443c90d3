"""W&B's own sweeps: the command that its agent builds from configs/wandb/sweep.yaml, run."""

import json
import subprocess
import sys

import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from headwise.launch import CONFIGS
from tests.small import ROOT
from tests.sweep.small import TINIEST

SWEEP = yaml.safe_load((CONFIGS / "wandb/sweep.yaml").read_text())


def drawn(parameter):
    """Return a value that W&B could choose."""
    return parameter["values"][0] if "values" in parameter else float(parameter["min"])


def agents_command(sweep):
    """Return the command that wandb's agent runs for one choice of the parameters (wandb_agent.Agent._command_run)."""
    args = {"args": {key: {"value": drawn(parameter)} for key, parameter in sweep["parameters"].items()}}
    parts = create_sweep_command_args(args) | {
        "env": ["/usr/bin/env"],
        "interpreter": [sys.executable],
        "program": [sweep["program"]],
    }
    command = []
    for chunk in create_sweep_command(list(sweep["command"])):
        name = chunk.removeprefix("${").removesuffix("}") if chunk.startswith("${") else None
        command += parts[name] if name else [chunk]
    return command


def test_wandb_agent_trains_with_the_chosen_values(tmp_path):
    command = agents_command(SWEEP)
    assert command[:3] == ["/usr/bin/env", sys.executable, "scripts/train.py"]
    assert "model.n_head=2" in command
    given = [override for override in TINIEST if not override.startswith(("model.n_head", "trainer.val_check"))]
    run = [*given, f"run_dir={tmp_path / 'out'}", f"data.cache_dir={tmp_path / 'cache'}"]
    subprocess.run([*command, *run], cwd=ROOT, check=True, capture_output=True)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert {"optimizer.lr=0.0005", "optimizer.muon_lr=0.002", "model.n_head=2"} <= set(summary["overrides"])


def test_wandb_sweep_minimises_a_metric_that_runs_log():
    from headwise.training.metrics import METRICS_COLUMNS

    assert SWEEP["metric"] == {"name": "val_loss", "goal": "minimize"}
    assert SWEEP["metric"]["name"] in METRICS_COLUMNS
