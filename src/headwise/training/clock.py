"""When something is due. Steps are Lightning's global step: optimizer steps taken."""

from __future__ import annotations

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
