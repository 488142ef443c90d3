"""Resuming a run: from which checkpoint, whether anything is left to do, and whether it is the same run."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from headwise.config import GPTConfig, TrainConfig, dotted_keys
from headwise.errors import require
from headwise.training.resolve import RunConfig

# What a resumed run must have as it was, since its result depends on it.
FIXED = (
    *("init_from", "model", "optimizer", "schedule", "seed", "data.batch_size", "data.global_batch_size"),
    *("data.val_tokens", "compile", "trainer.precision", "trainer.gradient_clip_val", "trainer.deterministic"),
    "callbacks.attention.prompts",  # the page shows the same ones at every step
)


def checkpoint_to_resume(config: TrainConfig, folder: Path) -> Path | None:
    """Return the checkpoint to resume from, or None for a new run in an empty folder."""
    last = folder / "checkpoints" / "last.ckpt"
    if config.resume == "auto":
        return last if last.exists() else None
    if config.resume:
        given = Path(config.resume)
        path = given if given.is_file() else given / "checkpoints" / "last.ckpt"
        require(
            path.is_file(),
            f"resume={config.resume} holds no checkpoints/last.ckpt; give a run's folder, or auto",
        )
        return path
    require(
        not (folder / "config.yaml").exists(),
        f"run_dir={folder} already holds a run; give resume=auto to continue it, or another run_dir for a new run",
    )
    return None


# What may change with the number of devices: the result depends on it by rounding and by what dropout draws.
ONE_DEVICE = ("data.batch_size", "compile")


def check_same_run(saved: dict, run: RunConfig, data: str, resume_from: Path) -> None:
    """Raise UserError if the checkpoint's text differs from `data`, or its settings from `run` in what a run's result
    depends on: the resumed run would be neither the one nor the other."""
    about = saved["headwise"]["about"]
    again = "give the overrides of the run's overrides.yaml again, or start a new run"
    require(about["data"] == data, f"data: the text, its split or its tokenizer differs from {resume_from}; {again}")
    was, now = OmegaConf.create(about["config"]), OmegaConf.create(run.as_dict())
    resolved = [GPTConfig(**config["model"]).resolved() for config in (about["config"], run.as_dict())]
    for key in dotted_keys(now):
        if key in ONE_DEVICE and run.n_devices != about.get("devices", 1):
            continue
        before, after = OmegaConf.select(was, key), OmegaConf.select(now, key)
        if key.startswith("model.") and (before is None) != (after is None):  # a null of version 0.1 is a number now
            before, after = (getattr(model, key.removeprefix("model.")) for model in resolved)
        if key.startswith(FIXED) and not isinstance(after, DictConfig):
            require(before == after, f"{key}={after} differs from {before} in {resume_from}; {again}")


def why_finished(saved: dict, config: RunConfig) -> str | None:
    """Return why the checkpoint's run has nothing left to do, and what to change to continue; None if it continues."""
    step, patience = saved["global_step"], config.callbacks.early_stopping.patience
    if step >= config.trainer.max_steps:
        return f"{step} steps are taken; raise trainer.max_steps to continue"
    waited = saved["callbacks"]["Checkpoints"]["waited"]
    if patience and waited >= patience:
        return f"it stopped early at step {step}; raise callbacks.early_stopping.patience to continue"
    return None
