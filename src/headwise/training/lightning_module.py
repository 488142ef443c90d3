"""The LightningModule of training: the loss of a batch, and the optimizer.

    module = TrainingModule(GPT(GPTConfig(vocab_size=65)), total_steps=100)
    L.Trainer(max_steps=100, callbacks=[EarlyStopping("val_loss")]).fit(module, batches)
    module = TrainingModule.load_from_checkpoint("last.ckpt")

Dimensions: inputs and targets are [B, T] token ids.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from headwise.checkpoint import checkpoint_entry, load_model, load_tokenizer, read
from headwise.config import OptimizerConfig, ScheduleConfig
from headwise.errors import RunError, require
from headwise.model.gpt import GPT, IGNORE, next_token_loss, uncompiled
from headwise.model.sharding import compile_in_place, full_scalar, shard_model
from headwise.tokenizer import Tokenizer
from headwise.training.optimizers import make_optimizer
from headwise.training.schedules import multiplier

DIVERGED = 2  # a loss above DIVERGED * ln(vocab_size) + 1 is a divergence


def step_ended(trainer: L.Trainer, batch_idx: int) -> bool:
    """Return whether this batch ended an optimizer step, rather than adding to an accumulated gradient."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class TrainingModule(L.LightningModule):
    """LightningModule that trains a GPT to predict the next token, with any Trainer and any batches of (ids, targets),
    both [B, T]; targets that are IGNORE do not count.

    Log train_loss, lr and grad_norm every `log_every_n_steps` of its Trainer, and val_loss and, with a tokenizer,
    val_bits_per_byte at each validation: to callbacks such as EarlyStopping, and to the Trainer's loggers unless
    `log_to_loggers` is False. The schedule ends at `total_steps`, by default the Trainer's max_steps.

    Checkpoints hold the model's configuration, the tokenizer, the hyper-parameters and `about`, all as plain values.
    `bytes_per_val_token` is the mean length of the validation text's tokens; by default the tokens are decoded.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer | None = None,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
        total_steps: int | None = None,
        seed: int = 0,
        *,
        about: dict | None = None,
        bytes_per_val_token: float | None = None,
        compile: bool = False,
        log_to_loggers: bool = True,
    ):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.optimizer_config, self.schedule_config = optimizer or OptimizerConfig(), schedule or ScheduleConfig()
        self.total_steps, self.seed, self.about, self.compile_model = total_steps, seed, about or {}, compile
        self.log_to_loggers, self.bytes_per_val_token = log_to_loggers, bytes_per_val_token
        plain = {"model": asdict(model.config), "optimizer": asdict(self.optimizer_config)}
        plain |= {"schedule": asdict(self.schedule_config)}
        self.save_hyperparameters(plain | {"total_steps": total_steps, "seed": seed}, logger=log_to_loggers)
        self.train_loss = torch.tensor(math.nan)  # of the latest step: the mean over its micro-batches
        self.grad_norm = torch.tensor(math.nan)  # of the latest step, before clipping
        self.last_lr = math.nan  # the latest step's learning rate (AdamW's)
        self.val_loss = self.val_bits_per_byte = math.nan  # of the latest validation
        self.val_sum, self.val_count, self.val_bytes = 0.0, 0, 0

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return the module of a checkpoint that a TrainingModule has saved, on the CPU or the device `map_location`.
        `kwargs` replace arguments that it was made with; the other arguments are Lightning's and not needed. Raise
        UserError if the file cannot be read."""
        raw = read(Path(checkpoint_path))
        saved = raw.get("hyper_parameters", {})  # version 0.1 saved none
        made_with: dict[str, Any] = {
            "model": load_model(raw, str(checkpoint_path)),
            "tokenizer": load_tokenizer(raw),
            "optimizer": OptimizerConfig(**saved.get("optimizer", {})),
            "schedule": ScheduleConfig(**saved.get("schedule", {})),
            "total_steps": saved.get("total_steps"),
            "seed": saved.get("seed", 0),
            "about": raw["headwise"]["about"],
        }
        return cls(**made_with | kwargs).to(map_location or "cpu")

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits [B, T, V] for token ids [B, T]."""
        return self.model(ids)

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
        return multiplier(step, self.schedule_config, self.schedule_length())

    def schedule_length(self) -> float:
        """Return the optimizer step at which the schedule ends. Raise UserError if neither the module nor its Trainer
        knows it."""
        if self.total_steps or self.trainer.max_steps > 0:
            return self.total_steps or self.trainer.max_steps
        kind = self.schedule_config.kind
        advice = "give TrainingModule(total_steps=...), or Trainer(max_steps=...)"
        require(kind == "constant", f"schedule.kind={kind} needs the number of optimizer steps; {advice}")
        return math.inf

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
        """Scale the gradient down to norm `gradient_clip_val`, or with the algorithm "value" clip each element; store
        its norm before that, and the learning rate."""
        self.last_lr = optimizer.param_groups[-1]["lr"]
        limit = math.inf if gradient_clip_val is None else gradient_clip_val
        by_value = str(gradient_clip_algorithm) == "value"
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), math.inf if by_value else limit)
        self.grad_norm = full_scalar(norm)
        if by_value:
            torch.nn.utils.clip_grad_value_(self.parameters(), limit)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log every n steps and not in between: each call takes 2 to 3 ms."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # 0: never
        if every and step_ended(self.trainer, batch_idx) and self.global_step % every == 0:
            self.log_values({"train_loss": self.train_loss, "lr": self.last_lr, "grad_norm": self.grad_norm})

    def on_validation_epoch_start(self) -> None:
        self.val_sum, self.val_count, self.val_bytes = 0.0, 0, 0

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        with uncompiled():  # its batches have another size, which is not worth compiling for
            self.val_sum += float(next_token_loss(self.model(inputs), targets, reduction="sum"))
        counted = targets[targets != IGNORE]
        self.val_count += len(counted)
        if self.tokenizer and not self.bytes_per_val_token:
            self.val_bytes += len(self.tokenizer.decode(counted.tolist()).encode())

    def on_validation_epoch_end(self) -> None:
        """Compute the mean over every token of all devices, not over batches, and log it."""
        sums = torch.tensor([self.val_sum, self.val_count, self.val_bytes], dtype=torch.float64)
        if self.trainer.world_size > 1:  # not every device has float64
            sums = self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum")
        total, count, n_bytes = sums.tolist()
        self.val_loss = total / count
        values = {"val_loss": self.val_loss}
        if self.tokenizer:
            self.val_bits_per_byte = self.val_loss / math.log(2) / (self.bytes_per_val_token or n_bytes / count)
            values["val_bits_per_byte"] = self.val_bits_per_byte
        self.log_values(values)

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
