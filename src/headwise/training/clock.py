"""When something is due, and how long training took. Steps are Lightning's global step: optimizer steps taken."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
from lightning.pytorch.callbacks import Callback


def step_ended(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether this batch ended an optimizer step, rather than adding to an accumulated gradient."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class Clock(Callback):
    """A callback that knows when it is due: after every n-th optimizer step, and after the last."""

    def __init__(self, every_n_steps: int | None):
        self.every = every_n_steps

    def due_at(self, trainer: L.Trainer, step: int) -> bool:
        """Whether something is due once `step` steps are taken."""
        return self.every is not None and (step % self.every == 0 or step == trainer.max_steps)

    def due(self, trainer: L.Trainer, batch_idx: int) -> bool:
        """Whether it is due now, at the end of a batch."""
        return self.due_at(trainer, trainer.global_step) and step_ended(trainer, batch_idx)


class Stopwatch:
    """Seconds spent on training itself: wall time, but for what it is paused for."""

    def __init__(self) -> None:
        self.before = 0.0  # seconds until it was stopped last
        self.since: float | None = None  # when it was started again

    @property
    def seconds(self) -> float:
        """Until now."""
        return self.before + (0.0 if self.since is None else time.perf_counter() - self.since)

    def start(self) -> None:
        """Run, or go on running."""
        if self.since is None:
            self.since = time.perf_counter()

    def stop(self) -> None:
        """Stand still."""
        self.before, self.since = self.seconds, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still for the length of a `with` block."""
        running = self.since is not None
        self.stop()
        yield
        if running:
            self.start()
