"""Going on with a run: from which checkpoint, whether there is anything left to do, and whether it is the same run."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from headwise.config import TrainConfig, dotted_keys
from headwise.errors import require

# What a resumed run must have as it was, since its result depends on it.
FIXED = (
    *("init_from", "model", "optimizer", "schedule", "seed", "data.batch_size", "data.global_batch_size"),
    *("data.val_tokens", "compile", "trainer.precision", "trainer.gradient_clip_val", "trainer.deterministic"),
    "callbacks.attention.prompts",  # the page shows the same ones at every step
)


def find_resume(config: TrainConfig, folder: Path) -> Path | None:
    """The checkpoint to go on from, or None for a new run in an empty folder."""
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
        f"run_dir={folder} already holds a run; resume=auto goes on with it, another run_dir starts anew",
    )
    return None


# What may change with the number of devices: the result depends on it by rounding and by what dropout draws.
ONE_DEVICE = ("data.batch_size", "compile")


def refuse_another_run(saved: dict, plain: dict, data: str, resume_from: Path, devices: int) -> None:
    """Raise UserError if the checkpoint's text differs from `data`, or its settings from `plain` in what a run's
    result depends on: going on would be neither the one run nor the other."""
    about = saved["headwise"]["about"]
    again = "give the overrides of the run's overrides.yaml again, or start a new run"
    require(about["data"] == data, f"data: the text, its split or its tokenizer differs from {resume_from}; {again}")
    was, now = OmegaConf.create(about["config"]), OmegaConf.create(plain)
    for key in dotted_keys(now):
        if key in ONE_DEVICE and devices != about.get("devices", 1):
            continue
        before, after = OmegaConf.select(was, key), OmegaConf.select(now, key)
        if key.startswith(FIXED) and not isinstance(after, DictConfig):
            require(before == after, f"{key}={after} differs from {before} in {resume_from}; {again}")


def why_finished(saved: dict, config: TrainConfig) -> str | None:
    """Why the run of the checkpoint has nothing left to do, and what would give it more; None if it goes on."""
    step, patience = saved["global_step"], config.callbacks.early_stopping.patience
    if step >= config.trainer.max_steps:
        return f"{step} steps are taken; raise trainer.max_steps to go on"
    waited = saved["callbacks"]["Checkpoints"]["waited"]
    if patience and waited >= patience:
        return f"it stopped early at step {step}; raise callbacks.early_stopping.patience to go on"
    return None
