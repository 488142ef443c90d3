"""The numbers of a run: measured every n steps and at each validation, written to metrics.csv and to the logger."""

from __future__ import annotations

import math
import resource
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch

from headwise.distributed.strategies import number
from headwise.errors import RunError
from headwise.files import CsvTable
from headwise.training.clock import Clock, Stopwatch, step_ended
from headwise.training.lightning_module import TrainingModule
from headwise.training.loggers import log_moment

EXPLODED = 2  # times the loss of guessing
METRICS = [
    "step", "tokens", "seconds", "train_loss", "val_loss", "val_bits_per_byte", "lr", "grad_norm",
    "tokens_per_second", "update_ratio", "mfu", "memory_mb",
]  # fmt: skip


def refuse_to_diverge(trainer: L.Trainer, module: TrainingModule) -> None:
    """Raise RunError once a loss, the gradient or the weights are not numbers, or a loss is far above that of guessing;
    the checkpoints stay as they were."""
    guessing = math.log(module.model.config.vocab_size)
    weights = number(torch.nn.utils.get_total_norm([p.detach() for p in module.model.parameters()]))
    latest = {"training loss": module.train_loss, "gradient norm": module.grad_norm, "weights' norm": weights}
    numbers = {name: float(trainer.strategy.reduce(value)) for name, value in latest.items()}  # of all devices
    if module.val_count:  # validated at least once
        numbers["validation loss"] = module.val_loss
    for name, value in numbers.items():
        exploded = name.endswith("loss") and value > EXPLODED * guessing + 1
        if exploded or not math.isfinite(value):
            than = f", where guessing gives {guessing:.3g}" if exploded else ""
            raise RunError(
                f"the training diverged by step {trainer.global_step}: its {name} is {value:.4g}{than}; try a smaller "
                f"optimizer.lr{' and optimizer.muon_lr' if module.optimizer_config.kind == 'muon' else ''} or a longer "
                "schedule.warmup_steps. Checkpoints, where there are any, are from before it"
            )


def losses(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The training and validation losses in a metrics.csv: train, val -> (step, loss)."""
    rows = CsvTable(path, METRICS).rows()
    return {
        split: [(int(row["step"]), float(row[f"{split}_loss"])) for row in rows if row[f"{split}_loss"]]
        for split in ("train", "val")
    }


def peak_memory(device: torch.device) -> float:
    """The most memory that this process has held so far, in MB: the GPU's, or else the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


class MetricsLog(Clock):
    """metrics.csv and the logger's scalars: a row every n steps and at each validation. `peak` is what the device can
    do, in operations a second; mfu is the part of it that the model's own operations take."""

    def __init__(
        self, path: Path, every_n_steps: int, val_every: int, tokens_per_step: int, peak: float, stopwatch: Stopwatch
    ):
        super().__init__(every_n_steps)
        self.peak, self.stopwatch = peak, stopwatch
        self.table = CsvTable(path, METRICS)
        self.validation = Clock(val_every)
        self.tokens_per_step = tokens_per_step
        self.steps, self.seconds = 0, 0.0  # steps since the last row, and its time; resumed parts count
        self.row: dict[str, Any] = {}

    def state_dict(self) -> dict:
        return {"seconds": self.stopwatch.seconds}

    def load_state_dict(self, state_dict: dict) -> None:
        self.stopwatch.before = self.seconds = state_dict["seconds"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if trainer.is_global_zero:
            self.table.begin(trainer.global_step)
        pl_module.watch_update = lambda step: self.due_at(trainer, step) or self.validation.due_at(trainer, step)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.stopwatch.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        validation_follows = self.validation.due(trainer, batch_idx)
        row_due = self.due(trainer, batch_idx) or validation_follows
        if row_due:
            refuse_to_diverge(trainer, pl_module)  # first, since it waits for the device to finish the step
        self.steps += step_ended(trainer, batch_idx)
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True  # makes Lightning validate after the last step, whichever that is
        if row_due:
            self.row = self.measure(trainer, pl_module)
            if not validation_follows:
                self.write(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stopwatch.stop()  # until the next batch

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        refuse_to_diverge(trainer, pl_module)
        if self.row.get("step") != trainer.global_step:  # the run was stopped early, by trainer.max_time say
            self.row = self.measure(trainer, pl_module)
        self.row |= {"val_loss": pl_module.val_loss, "val_bits_per_byte": pl_module.val_bits_per_byte}
        self.write(trainer)

    def measure(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The row of the step just taken; speed and time are since the last row."""
        assert isinstance(pl_module, TrainingModule)
        now = self.stopwatch.seconds
        speed = self.steps * self.tokens_per_step / (now - self.seconds) if self.steps else math.nan
        self.steps, self.seconds = 0, now
        return {
            "step": trainer.global_step,
            "tokens": trainer.global_step * self.tokens_per_step,
            "seconds": round(self.seconds, 3),
            "train_loss": float(trainer.strategy.reduce(pl_module.train_loss)),
            "lr": pl_module.last_lr,
            "grad_norm": float(pl_module.grad_norm),
            "tokens_per_second": round(speed, 1),
            "update_ratio": pl_module.update_ratio,
            "mfu": round(speed * pl_module.model.flops_per_token() / trainer.world_size / self.peak, 4),
            "memory_mb": round(peak_memory(pl_module.device), 1),
        }

    def write(self, trainer: L.Trainer) -> None:
        """The row goes out whole, once."""
        if not trainer.is_global_zero:
            return
        self.table.append([self.row])
        log_moment(trainer.loggers, self.row["step"], {k: v for k, v in self.row.items() if k != "step"})
