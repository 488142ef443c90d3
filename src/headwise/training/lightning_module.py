"""The LightningModule: how one batch becomes a loss, and which optimizer follows it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from headwise.checkpoint import checkpoint_entry
from headwise.config import OptimizerConfig, ScheduleConfig
from headwise.data.token_files import TokenFiles
from headwise.distributed.strategies import compile_in_place, number, shard
from headwise.model.gpt import GPT, IGNORE, next_token_loss
from headwise.training.optimizers import make_optimizer
from headwise.training.schedules import multiplier


class TrainingModule(L.LightningModule):
    """Trains a GPT to predict the next token. `about` goes into every checkpoint, as plain values."""

    def __init__(
        self,
        model: GPT,
        packed: TokenFiles,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        seed: int,
        about: dict,
        compile: bool = False,
    ):
        super().__init__()
        self.model, self.tokenizer = model, packed.tokenizer
        self.optimizer_config, self.schedule_config = optimizer, schedule
        self.seed, self.about, self.compile_model = seed, about, compile
        self.bytes_per_val_token = packed.bytes_per_token("val")
        self.train_loss = torch.tensor(math.nan)  # of the latest step: the mean over its micro-batches
        self.grad_norm = torch.tensor(math.nan)  # of the latest step, before clipping
        self.last_lr = math.nan  # the latest step's learning rate (AdamW's)
        self.watch_update: Callable[[int], bool] = lambda step: False  # whether to measure the step that is taken next
        self.update_ratio = math.nan  # of the latest step measured: how far the weights moved, as a part of their norm
        self.val_loss = self.val_bits_per_byte = math.nan  # of the latest validation
        self.val_sum, self.val_count = 0.0, 0

    def configure_model(self) -> None:
        """Lightning calls it once the processes are connected and before there is an optimizer: what has to be done to
        the model for the devices is done here."""
        if self.device_mesh is not None:
            shard(self.model, self.device_mesh["data_parallel"])
        if self.compile_model:
            compile_in_place(self.model)
            self.compile_model = False  # once

    def on_train_start(self) -> None:
        """Rates are those of the schedule, also of a longer one than the checkpoint knew."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group["initial_lr"] * multiplier(
                self.global_step, self.schedule_config, self.trainer.max_steps
            )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        self.seed_devices(self.draw_seed(batch_idx))
        loss = next_token_loss(self.model(inputs), targets)
        micro = batch_idx % self.trainer.accumulate_grad_batches
        self.train_loss = loss.detach() if micro == 0 else self.train_loss.lerp(loss.detach(), 1 / (micro + 1))
        return loss

    def seed_devices(self, seed: int) -> None:
        """Seed what dropout draws from. (torch.manual_seed keeps a stack trace for each device that is not there, at
        every call: milliseconds, and memory that grows.)"""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(seed)

    def draw_seed(self, batch_idx: int) -> int:
        """What dropout draws from: (seed, step, micro-step, rank). So nothing that runs between steps can disturb it,
        and a resumed run needs no saved random state."""
        micro = batch_idx % self.trainer.accumulate_grad_batches
        entropy = (self.seed, self.global_step, micro, self.global_rank)
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Scale the gradient down to norm `gradient_clip_val`, and keep the norm it had and the rate for the log."""
        self.last_lr = optimizer.param_groups[-1]["lr"]
        limit = math.inf if gradient_clip_val is None else gradient_clip_val
        self.grad_norm = number(torch.nn.utils.clip_grad_norm_(self.parameters(), limit))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's, and how far it moved the weights where that is watched."""
        watched = self.watch_update(self.global_step + 1)
        before = [p.detach().clone() for p in self.parameters()] if watched else []
        super().optimizer_step(*args, **kwargs)
        if watched:
            moved = [p.detach() - b for p, b in zip(self.parameters(), before, strict=True)]
            norm = torch.nn.utils.get_total_norm
            self.update_ratio = float(number(norm(moved)) / number(norm(before)))

    def on_validation_epoch_start(self) -> None:
        self.val_sum, self.val_count = 0.0, 0

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        with torch.compiler.set_stance("force_eager"):  # its batches have another size; compiling for that does not pay
            self.val_sum += float(next_token_loss(self.model(inputs), targets, reduction="sum"))
        self.val_count += int((targets != IGNORE).sum())

    def on_validation_epoch_end(self) -> None:
        """The mean over every token of all devices, not over batches."""
        both = torch.tensor([self.val_sum, self.val_count], dtype=torch.float64)
        if self.trainer.world_size > 1:  # not every device has float64
            both = self.trainer.strategy.reduce(both.to(self.device), reduce_op="sum")
        self.val_loss = float(both[0] / both[1])
        self.val_bits_per_byte = self.val_loss / math.log(2) / self.bytes_per_val_token

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = make_optimizer(self.model, self.optimizer_config)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: multiplier(step, self.schedule_config, self.trainer.max_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        about = self.about | {"step": self.global_step, "val_loss": self.val_loss}
        checkpoint["headwise"] = checkpoint_entry(self.model, self.tokenizer, about)
