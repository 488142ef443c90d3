"""Several runs by one command (-m), in this process or in others: their folder, how far they are, how they ended."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from headwise.console import fail, say
from headwise.distributed.processes import started
from headwise.files import write_text

ENDED = "ended.json"  # in the folder of a run of a sweep that did not come to its end: why
LAUNCHERS = {  # hydra/launcher -> the package that has it
    "joblib": "hydra_joblib_launcher",
    "slurm": "hydra_submitit_launcher",
    "submitit": "hydra_submitit_launcher",
}


class Multirun(Callback):
    """What the jobs of a multirun have in common, in whatever process each runs."""

    folder: Path | None = None  # of the multirun that this process has started
    total, began = 0, 0.0  # how many jobs there are, and when the first began

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """One folder for all, since each would name its own; and how many there are, and what varies."""
        given = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        varied = [override.get_key_element() for override in given if override.is_sweep_override()]
        same = [override.get_key_element() for override in given if not override.is_sweep_override()]
        (jobs,) = BasicSweeper.split_arguments(given, None)
        self.total, self.began = len(jobs), time.time()
        folder, resumed = Path(config.run_dir), bool(config.get("resume"))
        what = [" ".join(part for part in job if part.split("=")[0].lstrip("+~") in varied) for job in jobs]
        several = config.trainer.devices if isinstance(config.trainer.devices, int) and not config.estimate else 1
        refuse(folder, what, resumed, several)
        Multirun.folder = folder
        if not config.hydra.launcher._target_.endswith("BasicLauncher"):
            os.environ["TTY_COMPATIBLE"] = "0"  # several bars in one terminal would overwrite each other
        if "submitit" in config.hydra.launcher._target_:
            say(f"what the {self.total} runs say goes to {Multirun.folder / '.submitit'}")
        Thread(target=self.watch, args=[Multirun.folder], daemon=True).start()
        with open_dict(config):
            if "run_dir" not in same and "run_dir" not in varied:
                config.run_dir = str(Multirun.folder)  # resolved, once
                config.hydra.overrides.task.append(f"run_dir={quoted(str(Multirun.folder))}")
            exclude = ",".join(sorted({*same, "run_dir"} - set(varied)))
            config.hydra.overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{exclude}]")

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Which of the jobs begins."""
        if self.total:
            say(f"run {config.hydra.job.num} (of {self.total}): {config.hydra.job.override_dirname}")

    def watch(self, folder: Path) -> None:
        """Say how far the multirun is, whatever process its jobs run in."""
        before = self.done(folder)
        while Multirun.folder == folder:
            time.sleep(0.5)
            done = self.done(folder)
            if done > before:
                left = (time.time() - self.began) / done * (self.total - done)
                say(f"{done} of {self.total} runs done" + (f"; about {left:.0f} s left" if done < self.total else ""))
            before = done

    def done(self, folder: Path) -> int:
        """How many jobs have come to an end."""
        runs = [folder / str(i) for i in range(self.total)]
        return sum((run / "summary.json").exists() or (run / ENDED).exists() for run in runs)


def refuse(folder: Path, jobs: list[str], resumed: bool, devices: int) -> None:
    """Leave with one line where a multirun cannot be what is meant. (Of an exception Hydra would only warn.)"""
    twice = next((job for i, job in enumerate(jobs) if job in jobs[:i]), None)
    if twice is not None:
        fail(f"-m: two of the runs are the same: {twice}; leave one out")
    together = started()
    if together:
        fail(f"-m does not go with {together.by}; start one run after the other, without -m")
    if devices > 1:
        fail(
            f"-m does not go with {devices} devices, each of which would begin all runs anew; start one after the other"
        )
    if (folder / "study").exists():
        fail(f"run_dir={folder} holds a search of scripts/sweep.py; give another run_dir")
    if not resumed and any(path.parent.name.isdecimal() for path in folder.glob("*/config.yaml")):
        fail(f"run_dir={folder} already holds runs; resume=auto goes on with them, another run_dir starts anew")


def quoted(text: str) -> str:
    """Text as a value in an override, whatever stands in it: Hydra reads backslashes as such only before a quote."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"


def note_end(folder: Path, overrides: list[str], state: str, why: str, code: int | None = None) -> None:
    """Write down that a run of a sweep did not come to its end: what it was, and why."""
    told = {"state": state, "why": why, "code": code, "overrides": overrides}
    write_text(folder / ENDED, json.dumps(told, indent=2) + "\n")


def check_launcher() -> None:
    """Leave with one line where the launcher that is asked for needs a package that is missing."""
    for argument in sys.argv[1:]:
        name = argument.removeprefix("hydra/launcher=")
        package = LAUNCHERS.get(name.split("_")[0])
        if name != argument and package and not importlib.util.find_spec(f"hydra_plugins.{package}"):
            extra = "sweep" if name == "joblib" else "slurm"
            fail(f"{argument} needs the package {package.replace('_', '-')}: pip install -e '.[{extra}]'")


def leave_no_bare_multirun(folder: Path) -> None:
    """Remove what Hydra has written of a multirun, if no run has added to it."""
    with suppress(OSError):  # not ours to remove, or to look into
        if [file.name for file in folder.iterdir()] == ["multirun.yaml"]:
            (folder / "multirun.yaml").unlink()
            folder.rmdir()
