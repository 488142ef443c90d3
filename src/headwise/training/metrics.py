"""The measurements of a run, written to metrics.csv and to the loggers every n steps and at each validation."""

from __future__ import annotations

import math
import resource
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from headwise.files import CsvTable
from headwise.model.sharding import full_scalar
from headwise.training.callbacks import EveryNSteps, Stopwatch
from headwise.training.lightning_module import TrainingModule, step_ended
from headwise.training.loggers import log_step

METRICS_COLUMNS = [
    "step", "tokens", "seconds", "train_loss", "val_loss", "val_bits_per_byte", "lr", "grad_norm",
    "tokens_per_second", "update_ratio", "mfu", "memory_mb",
]  # fmt: skip


def read_losses(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the losses in a metrics.csv: "train" and "val" -> (step, loss)."""
    rows = CsvTable(path, METRICS_COLUMNS).rows()
    return {
        split: [(int(row["step"]), float(row[f"{split}_loss"])) for row in rows if row[f"{split}_loss"]]
        for split in ("train", "val")
    }


def peak_memory(device: torch.device) -> float:
    """Return the peak memory of this process so far in MB: allocated on the GPU, or else resident in host memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


class MetricsLog(EveryNSteps):
    """Write a row of metrics.csv, and pass it to the loggers, every n steps and at each validation. `peak` is the
    rate in FLOP/s that matmul_peak measured; mfu is the model's own FLOP/s divided by it, per device."""

    def __init__(
        self, path: Path, every_n_steps: int, val_every: int, tokens_per_step: int, peak: float, stopwatch: Stopwatch
    ):
        super().__init__(every_n_steps)
        self.peak, self.stopwatch = peak, stopwatch
        self.table = CsvTable(path, METRICS_COLUMNS)
        self.validation = EveryNSteps(val_every)
        self.tokens_per_step = tokens_per_step
        self.steps, self.seconds = 0, 0.0  # steps since the last row, and its seconds, of all parts of a resumed run
        self.row: dict[str, Any] = {}
        self.weights: list[Tensor] = []  # copies from before a step whose update is measured
        self.update_ratio = math.nan  # of the latest step measured: norm of the weights' change / norm of the weights

    def state_dict(self) -> dict:
        return {"seconds": self.stopwatch.seconds}

    def load_state_dict(self, state_dict: dict) -> None:
        self.stopwatch.seconds_before = self.seconds = state_dict["seconds"]

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.table.keep_until(trainer.global_step)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.stopwatch.start()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        step = trainer.global_step + 1
        if self.is_due_at(step, trainer.max_steps) or self.validation.is_due_at(step, trainer.max_steps):
            self.weights = [p.detach().clone() for p in pl_module.parameters()]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        validation_follows = self.validation.is_due(trainer, batch_idx)
        row_is_due = self.is_due(trainer, batch_idx) or validation_follows
        if row_is_due:
            self.measure_update(pl_module)
            pl_module.raise_if_diverged()  # before the time is read, since it waits for the device to finish the step
        self.steps += step_ended(trainer, batch_idx)
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True  # makes Lightning validate after the last step, whichever that is
        if row_is_due:
            self.row = self.measure(trainer, pl_module)
            if not validation_follows:
                self.write(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stopwatch.stop()  # until the next batch

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        pl_module.raise_if_diverged()
        if self.row.get("step") != trainer.global_step:  # the run was stopped early, by trainer.max_time for example
            self.row = self.measure(trainer, pl_module)
        self.row |= {"val_loss": pl_module.val_loss, "val_bits_per_byte": pl_module.val_bits_per_byte}
        self.write(trainer)

    def measure_update(self, module: TrainingModule) -> None:
        """Measure how far the step moved the weights."""
        moved = [p.detach() - before for p, before in zip(module.parameters(), self.weights, strict=True)]
        norms = [full_scalar(torch.nn.utils.get_total_norm(tensors)) for tensors in (moved, self.weights)]
        self.update_ratio, self.weights = float(norms[0] / norms[1]), []

    def measure(self, trainer: L.Trainer, module: TrainingModule) -> dict[str, Any]:
        """Return the row of the step just taken. Speed and time are since the last row."""
        now = self.stopwatch.seconds
        speed = self.steps * self.tokens_per_step / (now - self.seconds) if self.steps else math.nan
        self.steps, self.seconds = 0, now
        return {
            "step": trainer.global_step,
            "tokens": trainer.global_step * self.tokens_per_step,
            "seconds": round(self.seconds, 3),
            "train_loss": float(trainer.strategy.reduce(module.train_loss)),
            "lr": module.last_lr,
            "grad_norm": float(module.grad_norm),
            "tokens_per_second": round(speed, 1),
            "update_ratio": self.update_ratio,
            "mfu": round(speed * module.model.flops_per_token() / trainer.world_size / self.peak, 4),
            "memory_mb": round(peak_memory(module.device), 1),
        }

    @rank_zero_only
    def write(self, trainer: L.Trainer) -> None:
        """Append the row to metrics.csv, and pass it to the loggers."""
        self.table.append([self.row])
        log_step(trainer.loggers, self.row["step"], {k: v for k, v in self.row.items() if k != "step"})
