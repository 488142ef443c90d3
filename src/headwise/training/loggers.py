"""Where values and pictures of a run go besides its folder, by name: wandb, tensorboard, csv, none."""

from __future__ import annotations

import importlib.util
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from headwise.config import LoggerConfig
from headwise.console import say
from headwise.errors import UserError, choose, first_line, require
from headwise.files import relative_to_cwd
from headwise.instantiate import instantiate

MINIMA = ("train_loss", "val_loss", "val_bits_per_byte")  # whose summary in W&B is the lowest value, not the last


def wandb_logger(config: LoggerConfig, folder: Path, run_config: dict, name: str | None, sweep: str | None) -> Logger:
    """Return a logger of Weights & Biases: online after `wandb login` or with WANDB_MODE=online, otherwise offline in
    the run's folder. The runs of a sweep form a group.

    If W&B cannot start, for example without a network, it logs offline. A resumed run continues its online W&B run;
    offline it starts another one of the same group.
    """
    import wandb

    mode: Any = os.environ.get("WANDB_MODE")
    if not mode:
        mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
    settings = wandb_settings(config, folder, name, sweep)
    settings["config"] = run_config
    settings["settings"] = wandb.Settings(init_timeout=20, silent=True)  # the summary names the run's path
    resumed = wandb_id(folder, bool(sweep), mode == "online")
    try:
        run = wandb.init(mode=mode, **settings, **resumed)
    except Exception as error:  # whatever it is, training continues
        say(f"W&B could not start ({first_line(error)}); logging offline")
        run = wandb.init(mode="offline", **settings, **{key: resumed[key] for key in resumed if key != "resume"})
    run.define_metric("trainer/global_step")  # the x-axis of every chart
    run.define_metric("*", step_metric="trainer/global_step")
    for metric in MINIMA:
        run.define_metric(metric, step_metric="trainer/global_step", summary="min")
    return WandbLogger(experiment=run)


def wandb_settings(config: LoggerConfig, folder: Path, name: str | None, sweep: str | None) -> dict[str, Any]:
    """Return the arguments of wandb.init that say where the run is filed. Keys that are given win over W&B's
    environment variables, with one line; wandb itself reads the variables of arguments that are None."""
    for key, variable in {"project": "WANDB_PROJECT", "name": "WANDB_NAME", "entity": "WANDB_ENTITY"}.items():
        own, other = getattr(config, key), os.environ.get(variable)
        if own and other and own != other:
            say(f"logger.{key}={own} is used, not {variable}={other}")
    tags = os.environ.get("WANDB_TAGS", "")
    if config.tags and tags and config.tags != tags.split(","):
        say(f"logger.tags=[{','.join(config.tags)}] is used, not WANDB_TAGS={tags}")
    chosen = config.name or os.environ.get("WANDB_NAME")
    agent = os.environ.get("WANDB_SWEEP_ID")  # wandb agent has started this process; the sweep is the group
    return {
        "project": config.project or os.environ.get("WANDB_PROJECT") or "headwise",
        "entity": config.entity,
        "name": name or chosen or folder.name,
        "group": os.environ.get("WANDB_RUN_GROUP") or (None if agent else chosen or sweep or folder.name),
        "tags": config.tags or None,
        "dir": wandb_folder(folder),
    }


def wandb_folder(folder: Path) -> Path:
    """Return the folder in which W&B makes its folder `wandb`, as an absolute path: W&B's service may have been started
    from another folder, by an earlier run."""
    return Path(os.environ.get("WANDB_DIR") or folder).resolve()


def wandb_id(folder: Path, in_sweep: bool, online: bool) -> dict[str, Any]:
    """Return the arguments of wandb.init that continue an earlier run of the folder, or that of WANDB_RUN_ID."""
    given = os.environ.get("WANDB_RUN_ID")
    if given and in_sweep:  # or each run of a multirun would replace the one before
        say(f"WANDB_RUN_ID={given} is not used: the runs of a multirun are runs of their own in W&B")
    if given and not in_sweep:
        return {"id": given} | ({"resume": os.environ.get("WANDB_RESUME") or "allow"} if online else {})
    earlier = sorted(folder.glob("wandb/run-*"))  # W&B's own folders of runs online: run-TIME-ID
    if earlier and online:
        return {"id": earlier[-1].name.split("-")[-1], "resume": "allow"}
    return {"id": secrets.token_hex(4)} if given else {}


def tensorboard_logger(config: LoggerConfig, folder: Path, *_: Any) -> Logger:
    """Return a logger that writes TensorBoard event files to the run's folder."""
    return TensorBoardLogger(save_dir=folder, name="tensorboard", version="")


def no_logger(config: LoggerConfig, folder: Path, *_: Any) -> None:
    """Return None. The run's folder has metrics.csv, heads.csv and the pictures with every logger."""


LOGGERS = {"wandb": wandb_logger, "tensorboard": tensorboard_logger, "csv": no_logger, "none": no_logger}


def validate_logger(config: LoggerConfig) -> None:
    """Raise UserError if there is no such logger, or its package is not installed."""
    choose("logger.kind", config.kind, LOGGERS)
    if config.kind == "wandb" and os.environ.get("WANDB_MODE"):
        choose("WANDB_MODE", os.environ["WANDB_MODE"], {mode: mode for mode in ("online", "offline", "disabled")})
    wandb_only = not config.log_model or config.kind == "wandb"
    require(wandb_only, f"logger.log_model=true needs logger=wandb, not logger.kind={config.kind}")
    installed = config.kind != "tensorboard" or importlib.util.find_spec("tensorboard") is not None
    require(installed, "logger=tensorboard needs the tensorboard package: pip install tensorboard")


def make_loggers(
    config: LoggerConfig, folder: Path, run_config: dict, name: str | None = None, sweep: str | None = None
) -> list[Logger]:
    """Return the logger that the configuration names, if it is one, and those of logger.extra. `name` and `sweep` are
    those of a run of a sweep."""
    extra = instantiate("logger.extra", config.extra, Logger)
    for one in extra:
        one.log_hyperparams(run_config)
    own = choose("logger.kind", config.kind, LOGGERS)(config, folder, run_config, name, sweep)
    return [own, *extra] if own else extra


def log_step(
    loggers: list[Logger],
    step: int,
    values: dict[str, float],
    images: dict[str, Path] | None = None,
    page: Path | None = None,
    table: list[dict] | None = None,
) -> None:
    """Pass a step's values and images (PNG files) to the loggers in one call, under Lightning's global step. W&B also
    gets the attention page and the table of head scores."""
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
            logger.experiment.log({**values, **media, "trainer/global_step": step})
            continue
        logger.log_metrics(values, step)
        if isinstance(logger, TensorBoardLogger):
            for name, file in (images or {}).items():
                logger.experiment.add_image(name, np.asarray(Image.open(file).convert("RGB")), step, dataformats="HWC")


def log_samples(loggers: list[Logger], step: int, prompt: str, samples: dict[int, str]) -> None:
    """Pass all text samples so far, {step: text}, to W&B as one table."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            table = wandb.Table(["step", "prompt", "text"], [[at, prompt, text] for at, text in samples.items()])
            logger.experiment.log({"samples": table, "trainer/global_step": step})


def log_model(loggers: list[Logger], folder: Path) -> None:
    """Store best.ckpt in the W&B run as the artifact model-ID, and its export as huggingface-ID, if it has one."""
    best = folder / "checkpoints/best.ckpt"
    for run in (logger.experiment for logger in loggers if isinstance(logger, WandbLogger)):
        import wandb

        from headwise import checkpoint, huggingface

        model = wandb.Artifact(f"model-{run.id}", type="model")
        model.add_file(str(best))
        run.log_artifact(model, aliases=["best"])
        with tempfile.TemporaryDirectory() as exported:
            try:
                huggingface.export(checkpoint.load(best), Path(exported))
            except UserError as error:
                say(f"logger.log_model: no Hugging Face folder: {error}")
                continue
            export = wandb.Artifact(f"huggingface-{run.id}", type="model")
            export.add_dir(exported)  # copies the files
            run.log_artifact(export, aliases=["best"])


def wandb_location(loggers: list[Logger]) -> str | None:
    """Return the address of the W&B run, or the command that uploads an offline one; None without W&B."""
    for run in (logger.experiment for logger in loggers if isinstance(logger, WandbLogger)):
        if not run.disabled:
            folder = relative_to_cwd(Path(run.dir).parent)
            return f"offline; with an account: wandb sync {folder}" if run.offline else run.url
    return None


def close_loggers(loggers: list[Logger], failed: bool) -> None:
    """Finish the W&B run, if there is one: its files are complete, and the next run is another one. Lightning has
    closed other loggers."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=int(failed))
