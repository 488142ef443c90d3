"""What happens beside training: numbers, progress, checkpoints, text samples, attention maps.

Each is thin. None of them touches the model, its mode or the random state, so a run's losses are the same with
and without them, bit for bit.
"""

from __future__ import annotations

import math
import re
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from headwise.errors import RunError
from headwise.files import CsvTable, whole, write_text
from headwise.generation import generate
from headwise.inspection.recorder import Recorder
from headwise.model.gpt import eval_mode
from headwise.training.loggers import log_moment
from headwise.training.module import TrainingModule

METRICS = [
    "step", "tokens", "seconds", "train_loss", "val_loss", "val_bits_per_byte", "lr", "grad_norm",
    "tokens_per_second",
]  # fmt: skip


def step_ended(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether this batch ended an optimizer step, rather than adding to an accumulated gradient."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class Clock(Callback):
    """Knows when something is due. Steps are Lightning's global step: optimizer steps taken."""

    def __init__(self, every_n_steps: int | None):
        self.every = every_n_steps

    def due(self, trainer: L.Trainer, batch_idx: int) -> bool:
        """After every n-th optimizer step, and after the last."""
        step = trainer.global_step
        on_time = self.every is not None and (step % self.every == 0 or step == trainer.max_steps)
        return on_time and step_ended(trainer, batch_idx)


def refuse_to_diverge(trainer: L.Trainer, module: TrainingModule) -> None:
    """Raise RunError once a loss or the gradient's norm is not a number; the checkpoints stay as they were."""
    latest = {"training loss": float(module.train_loss), "gradient norm": float(module.grad_norm)}
    if module.val_count:  # validated at least once
        latest["validation loss"] = module.val_loss
    for name, value in latest.items():
        if not math.isfinite(value):
            raise RunError(
                f"the training diverged by step {trainer.global_step}: its {name} is {value}; try a smaller "
                "optimizer.lr or a longer schedule.warmup_steps"
            )


class MetricsLog(Clock):
    """metrics.csv and the logger's scalars: a row every n steps and at each validation."""

    def __init__(self, path: Path, every_n_steps: int, val_every: int, tokens_per_step: int):
        super().__init__(every_n_steps)
        self.table = CsvTable(path, METRICS)
        self.validation = Clock(val_every)
        self.tokens_per_step = tokens_per_step
        self.seconds = 0.0  # spent training in all, resumed parts included
        self.steps, self.interval = 0, 0.0  # since the last row
        self.row: dict[str, Any] = {}

    def state_dict(self) -> dict:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict) -> None:
        self.seconds = state_dict["seconds"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.table.begin(trainer.global_step)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        validation_follows = self.validation.due(trainer, batch_idx)
        row_due = self.due(trainer, batch_idx) or validation_follows
        if row_due:
            refuse_to_diverge(trainer, pl_module)  # first, since it waits for the device to finish the step
        self.interval += time.perf_counter() - self.started
        self.steps += step_ended(trainer, batch_idx)
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True  # makes Lightning validate after the last step, whichever that is
        if row_due:
            self.row = self.measure(trainer, pl_module)
            if not validation_follows:
                self.write(trainer)

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
        self.seconds += self.interval
        speed = self.steps * self.tokens_per_step / self.interval if self.steps else math.nan
        self.steps, self.interval = 0, 0.0
        return {
            "step": trainer.global_step,
            "tokens": trainer.global_step * self.tokens_per_step,
            "seconds": round(self.seconds, 3),
            "train_loss": float(pl_module.train_loss),
            "lr": pl_module.last_lr,
            "grad_norm": float(pl_module.grad_norm),
            "tokens_per_second": round(speed, 1),
        }

    def write(self, trainer: L.Trainer) -> None:
        """The row goes out whole, once."""
        self.table.append([self.row])
        log_moment(trainer.loggers, self.row["step"], {k: v for k, v in self.row.items() if k != "step"}, {})


class ProgressBar(Callback):
    """A bar in a terminal; elsewhere a line for each validation. Both on standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bar: Progress | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started, self.first = time.monotonic(), trainer.global_step
        if self.console.is_terminal:
            losses = TextColumn("{task.description}")
            columns = [MofNCompleteColumn(), BarColumn(bar_width=20), TimeRemainingColumn(), losses]  # in 80 columns
            self.bar = Progress(*columns, console=self.console)
            self.task = self.bar.add_task("", total=trainer.max_steps, completed=trainer.global_step)
            self.bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar and trainer.global_step % 10 == 0:
            assert isinstance(pl_module, TrainingModule)
            text = f"train {float(pl_module.train_loss):.3f}"
            text += "" if math.isnan(pl_module.val_loss) else f"  val {pl_module.val_loss:.3f}"
            self.bar.update(self.task, completed=trainer.global_step, description=text)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        taken = time.monotonic() - self.started
        train = float(pl_module.train_loss)
        left = taken / max(1, trainer.global_step - self.first) * (trainer.max_steps - trainer.global_step)
        line = f"step {trainer.global_step:>6}/{trainer.max_steps}  train {train:.4f}"
        line += f"  val {pl_module.val_loss:.4f}  {taken:.0f} s, {left:.0f} s left"
        if self.bar:
            self.bar.console.print(line, highlight=False)
            self.bar.update(self.task, description=f"train {train:.3f}  val {pl_module.val_loss:.3f}")
        else:
            print(line, file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Give the terminal back."""
        if self.bar:
            self.bar.stop()
            self.bar = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.bar:
            self.bar.update(self.task, completed=trainer.global_step)
        self.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.stop()


class Checkpoints(Clock, Checkpoint):
    """best.ckpt, of the lowest validation loss, and last.ckpt: at each validation, the latter every n steps too where
    asked for. As one of Lightning's checkpoint callbacks it runs after all others, so what it saves knows of the
    latest validation."""

    def __init__(self, folder: Path, every_n_steps: int | None, val_every: int):
        super().__init__(every_n_steps)
        self.folder, self.validation, self.best = folder, Clock(val_every), math.inf

    def state_dict(self) -> dict:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict) -> None:
        self.best = state_dict["best"]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not step_ended(trainer, batch_idx):
            trainer.should_stop = False  # a stop waits for the step's end; the time limit will ask again
        if self.due(trainer, batch_idx) and not self.validation.due(trainer, batch_idx):
            self.save(trainer, "last.ckpt")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if pl_module.val_loss < self.best:
            self.best = pl_module.val_loss
            self.save(trainer, "best.ckpt")
        self.save(trainer, "last.ckpt")

    def save(self, trainer: L.Trainer, name: str) -> None:
        """Write a checkpoint, whole or not at all."""
        with whole(self.folder / name) as temporary:
            trainer.save_checkpoint(temporary, weights_only=False)


class TextSamples(Clock):
    """samples.txt: how the model continues one prompt, every n steps. The same seed each time, so that what
    changes is the model."""

    def __init__(self, path: Path, every_n_steps: int | None, prompt: list[int], tokens: int, temperature: float):
        super().__init__(every_n_steps)
        self.path, self.prompt, self.tokens, self.temperature = path, prompt, tokens, temperature

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep what was sampled up to the step the run goes on from."""
        kept = {step: text for step, text in read_samples(self.path).items() if step <= trainer.global_step}
        write_text(self.path, "".join(f"==== step {step}\n{text}" for step, text in kept.items()))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.due(trainer, batch_idx):
            return
        assert isinstance(pl_module, TrainingModule)
        refuse_to_diverge(trainer, pl_module)
        with eval_mode(pl_module.model):
            ids = list(generate(pl_module.model, self.prompt, self.tokens, self.temperature, seed=0))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"==== step {trainer.global_step}\n{pl_module.tokenizer.decode(self.prompt + ids)}\n\n")


def read_samples(path: Path) -> dict[int, str]:
    """samples.txt as {step: text}."""
    written = path.read_text(encoding="utf-8") if path.exists() else ""
    _, *parts = re.split(r"^==== step (\d+)\n", written, flags=re.MULTILINE)
    return {int(step): text for step, text in zip(parts[::2], parts[1::2], strict=True)}


class AttentionMaps(Clock):
    """attention/: the probes' maps and scores before the first step, every n steps and after step max_steps; the same
    in the logger."""

    def __init__(self, recorder: Recorder, every_n_steps: int | None):
        super().__init__(every_n_steps)
        self.recorder = recorder

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.recorder.begin(trainer.global_step)
        if self.every is not None and trainer.global_step == 0:
            self.look(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.due(trainer, batch_idx):
            assert isinstance(pl_module, TrainingModule)
            refuse_to_diverge(trainer, pl_module)
            self.look(trainer, pl_module)

    def look(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the maps and hand them to the logger in one call."""
        assert isinstance(pl_module, TrainingModule)
        look = self.recorder.look(pl_module.model, trainer.global_step)
        images = {f"attn/maps/{name}": file for name, file in look.sheets.items()}
        log_moment(trainer.loggers, look.step, look.scores, images)
