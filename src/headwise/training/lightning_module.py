"""The LightningModule of training: the loss of a batch, and the optimizer.

    module = TrainingModule(model, token_files, OptimizerConfig(), ScheduleConfig(), seed=0, about={})
    L.Trainer(max_steps=100, callbacks=[EarlyStopping("val_loss")]).fit(module, datamodule)

Dimensions: inputs and targets are [B, T] token ids.
"""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from headwise.checkpoint import checkpoint_entry
from headwise.config import OptimizerConfig, ScheduleConfig
from headwise.data.token_files import TokenFiles
from headwise.errors import RunError
from headwise.model.gpt import GPT, IGNORE, next_token_loss, uncompiled
from headwise.model.sharding import compile_in_place, full_scalar, shard_model
from headwise.training.optimizers import make_optimizer
from headwise.training.schedules import multiplier

DIVERGED = 2  # a loss above DIVERGED * ln(vocab_size) + 1 is a divergence


def step_ended(trainer: L.Trainer, batch_idx: int) -> bool:
    """Return whether this batch ended an optimizer step, rather than adding to an accumulated gradient."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class TrainingModule(L.LightningModule):
    """LightningModule that trains a GPT to predict the next token.

    Log train_loss, lr and grad_norm every `log_every_n_steps` of its Trainer, and val_loss and val_bits_per_byte at
    each validation: to callbacks such as EarlyStopping, and to the Trainer's loggers unless `log_to_loggers` is False.
    `about` is written into every checkpoint, as plain values.
    """

    def __init__(
        self,
        model: GPT,
        token_files: TokenFiles,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        seed: int,
        about: dict,
        compile: bool = False,
        log_to_loggers: bool = True,
    ):
        super().__init__()
        self.model, self.tokenizer = model, token_files.tokenizer
        self.optimizer_config, self.schedule_config = optimizer, schedule
        self.seed, self.about, self.compile_model = seed, about, compile
        self.log_to_loggers = log_to_loggers
        self.bytes_per_val_token = token_files.bytes_per_token("val")
        self.train_loss = torch.tensor(math.nan)  # of the latest step: the mean over its micro-batches
        self.grad_norm = torch.tensor(math.nan)  # of the latest step, before clipping
        self.last_lr = math.nan  # the latest step's learning rate (AdamW's)
        self.val_loss = self.val_bits_per_byte = math.nan  # of the latest validation
        self.val_sum, self.val_count = 0.0, 0

    def configure_model(self) -> None:
        """Shard and compile the model. Lightning calls it once the processes are connected and before there is an
        optimizer."""
        if self.device_mesh is not None:
            shard_model(self.model, self.device_mesh["data_parallel"])
        if self.compile_model:
            compile_in_place(self.model)
            self.compile_model = False  # once

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = make_optimizer(self.model, self.optimizer_config)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_multiplier)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_multiplier(self, step: int) -> float:
        """Return the schedule's multiplier of the learning rates for optimizer step `step`, counted from 0."""
        return multiplier(step, self.schedule_config, self.trainer.estimated_stepping_batches)

    def on_train_start(self) -> None:
        """Set the rates that the schedule gives for this step; the checkpoint's are those of a shorter run if
        max_steps was raised."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group["initial_lr"] * self.lr_multiplier(self.global_step)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        micro_step = batch_idx % self.trainer.accumulate_grad_batches
        self.seed_devices(micro_step)
        loss = next_token_loss(self.model(inputs), targets)
        first, latest = micro_step == 0, loss.detach()
        self.train_loss = latest if first else self.train_loss.lerp(latest, 1 / (micro_step + 1))
        return loss

    def seed_devices(self, micro_step: int) -> None:
        """Seed the generators that dropout draws from, by (seed, step, micro-step, rank): what runs between steps does
        not change the training, and a resumed run needs no saved random state. (torch.manual_seed keeps a stack trace
        for each device that is absent, at every call: milliseconds, and memory that grows.)"""
        entropy = (self.seed, self.global_step, micro_step, self.global_rank)
        seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(seed)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Scale the gradient down to norm `gradient_clip_val`; store its norm before that, and the learning rate."""
        self.last_lr = optimizer.param_groups[-1]["lr"]
        limit = math.inf if gradient_clip_val is None else gradient_clip_val
        self.grad_norm = full_scalar(torch.nn.utils.clip_grad_norm_(self.parameters(), limit))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log every n steps and not in between: each call takes 2 to 3 ms."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # 0: never
        if every and step_ended(self.trainer, batch_idx) and self.global_step % every == 0:
            self.log_values({"train_loss": self.train_loss, "lr": self.last_lr, "grad_norm": self.grad_norm})

    def on_validation_epoch_start(self) -> None:
        self.val_sum, self.val_count = 0.0, 0

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        with uncompiled():  # its batches have another size, which is not worth compiling for
            self.val_sum += float(next_token_loss(self.model(inputs), targets, reduction="sum"))
        self.val_count += int((targets != IGNORE).sum())

    def on_validation_epoch_end(self) -> None:
        """Compute the mean over every token of all devices, not over batches, and log it."""
        both = torch.tensor([self.val_sum, self.val_count], dtype=torch.float64)
        if self.trainer.world_size > 1:  # not every device has float64
            both = self.trainer.strategy.reduce(both.to(self.device), reduce_op="sum")
        self.val_loss = float(both[0] / both[1])
        self.val_bits_per_byte = self.val_loss / math.log(2) / self.bytes_per_val_token
        self.log_values({"val_loss": self.val_loss, "val_bits_per_byte": self.val_bits_per_byte})

    def log_values(self, values: dict[str, Any]) -> None:
        """Log the means of values over the devices."""
        if not self.log_to_loggers:
            self.log_dict(values, sync_dist=True, logger=False)
            return
        step = {"step": float(self.global_step)}  # under which Lightning passes them on; its own count is one less
        self.log_dict(values | step, sync_dist=True)

    def raise_if_diverged(self) -> None:
        """Raise RunError if a loss, the gradient or the weights are not finite, or a loss is far above that of
        guessing. Checkpoints stay as they are."""
        guessing = math.log(self.model.config.vocab_size)
        weights = full_scalar(torch.nn.utils.get_total_norm([p.detach() for p in self.model.parameters()]))
        latest = {"training loss": self.train_loss, "gradient norm": self.grad_norm, "weights' norm": weights}
        values = {name: float(self.trainer.strategy.reduce(value)) for name, value in latest.items()}  # of all devices
        if self.val_count:  # validated at least once
            values["validation loss"] = self.val_loss
        for name, value in values.items():
            too_high = name.endswith("loss") and value > DIVERGED * guessing + 1
            if too_high or not math.isfinite(value):
                than = f", where guessing gives {guessing:.3g}" if too_high else ""
                raise RunError(
                    f"the training diverged by step {self.global_step}: its {name} is {value:.4g}{than}; try a smaller "
                    f"optimizer.lr{' and optimizer.muon_lr' if self.optimizer_config.kind == 'muon' else ''} or a "
                    "longer schedule.warmup_steps. Existing checkpoints were written before the divergence"
                )

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        about = self.about | {"step": self.global_step, "val_loss": self.val_loss}
        checkpoint["headwise"] = checkpoint_entry(self.model, self.tokenizer, about)
