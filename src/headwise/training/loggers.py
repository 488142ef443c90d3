"""Where numbers and pictures go beside the run's folder, by name: wandb, tensorboard, csv, none."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from headwise.config import LoggerConfig
from headwise.console import say
from headwise.errors import choose, require


def wandb_logger(config: LoggerConfig, folder: Path, about: dict, name: str | None, sweep: str | None) -> Logger:
    """The real W&B client: online after `wandb login` or with WANDB_MODE=online, else offline in the folder. The runs
    of a sweep are one group, named by what tells them apart.

    A start that fails (no network, say) falls back to offline, so that no training is lost to it. A resumed run goes on
    with its W&B run, or offline, where that cannot be, begins another of the same group.
    """
    import wandb

    mode: Any = os.environ.get("WANDB_MODE")
    if not mode:
        mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
    settings: dict[str, Any] = {
        "project": config.project,
        "entity": config.entity,
        "name": name or config.name or folder.name,
        "group": config.name or sweep or folder.name,
        "dir": folder,
        "config": about,
        "settings": wandb.Settings(init_timeout=20, silent=True),  # the run's report says where it is
    }
    earlier = sorted(folder.glob("wandb/run-*"))  # W&B's own folders of runs online: run-TIME-ID
    resumed: Any = {"id": earlier[-1].name.split("-")[-1], "resume": "allow"} if earlier and mode == "online" else {}
    try:
        run = wandb.init(mode=mode, **settings, **resumed)
    except Exception as error:  # whatever it was, training goes on; the reason is said
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        say(f"W&B could not start ({reason}); logging offline")
        run = wandb.init(mode="offline", **settings)
    run.define_metric("trainer/global_step")  # the x-axis of every chart
    run.define_metric("*", step_metric="trainer/global_step")
    return WandbLogger(experiment=run)


def tensorboard_logger(config: LoggerConfig, folder: Path, *_: Any) -> Logger:
    """TensorBoard event files in the folder."""
    return TensorBoardLogger(save_dir=folder, name="tensorboard", version="")


def no_logger(config: LoggerConfig, folder: Path, *_: Any) -> None:
    """Nothing: the run's folder has metrics.csv, heads.csv and the pictures with every logger."""


LOGGERS = {"wandb": wandb_logger, "tensorboard": tensorboard_logger, "csv": no_logger, "none": no_logger}


def check(config: LoggerConfig) -> None:
    """Raise UserError if there is no such logger, or its package is missing."""
    choose("logger.kind", config.kind, LOGGERS)
    if config.kind == "wandb" and os.environ.get("WANDB_MODE"):
        choose("WANDB_MODE", os.environ["WANDB_MODE"], {mode: mode for mode in ("online", "offline", "disabled")})
    there = config.kind != "tensorboard" or importlib.util.find_spec("tensorboard") is not None
    require(there, "logger=tensorboard needs the tensorboard package: pip install tensorboard")


def make_logger(
    config: LoggerConfig, folder: Path, about: dict, name: str | None = None, sweep: str | None = None
) -> Logger | None:
    """The logger that the configuration names, or None; `about` is the run's configuration. A run of a `sweep` has a
    `name` there."""
    return choose("logger.kind", config.kind, LOGGERS)(config, folder, about, name, sweep)


def log_moment(
    loggers: list[Logger],
    step: int,
    numbers: dict[str, float],
    images: dict[str, Path] | None = None,
    page: Path | None = None,
    table: list[dict] | None = None,
) -> None:
    """Numbers and pictures (PNG files) of one moment, in one call, under Lightning's global step; W&B gets the page of
    attention maps and the table of what heads do as well."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            media: dict[str, Any] = {name: wandb.Image(str(file)) for name, file in (images or {}).items()}
            if page:
                html = page.read_text(encoding="utf-8")
                media["attn/view"] = wandb.Html(html, inject=False, data_is_not_path=True)
            if table:
                columns = list(dict.fromkeys(column for row in table for column in row))
                media["heads/table"] = wandb.Table(columns, [[row.get(column) for column in columns] for row in table])
            logger.experiment.log({**numbers, **media, "trainer/global_step": step})
            continue
        logger.log_metrics(numbers, step)
        if isinstance(logger, TensorBoardLogger):
            for name, file in (images or {}).items():
                logger.experiment.add_image(name, np.asarray(Image.open(file).convert("RGB")), step, dataformats="HWC")


def whereabouts(logger: Logger | None) -> str | None:
    """Where to find the W&B run: its address, or the command that uploads it; None when there is none."""
    if not isinstance(logger, WandbLogger):
        return None
    run = logger.experiment
    if run.disabled:
        return None
    return f"offline; with an account: wandb sync {Path(run.dir).parent}" if run.offline else run.url


def close(logger: Logger | None, failed: bool) -> None:
    """End the W&B run, if it is one, so that its files are complete and the next run is another."""
    if isinstance(logger, WandbLogger):
        logger.experiment.finish(exit_code=int(failed))
