"""What `auto` stands for. It is decided by the configuration and the kind of device alone, never by a measurement, so
that the same command trains the same way each time; a run's checkpoints keep what was decided."""

from __future__ import annotations

import torch
from torch import nn

from headwise.config import TrainConfig
from headwise.console import say
from headwise.errors import choose, require
from headwise.model.gpt import GPT
from headwise.validation import batch_arithmetic

PRECISIONS = {  # what is known to train rightly; float16 needs a loss scale that the optimizer does not undo
    "32-true": torch.float32,
    "bf16-mixed": torch.bfloat16,  # where it is safe, float32 elsewhere
    "bf16-true": torch.bfloat16,
    "64-true": torch.float64,
}
# Operations of a run from which on compiling repays itself: minutes of training on each kind of device, where compiling
# takes about half a minute once for a model of four layers, and some seconds with a warm cache.
COMPILE_FROM = {"cpu": 2e13, "cuda": 2e16}


def check(config: TrainConfig) -> None:
    """Raise UserError for a choice that does not exist."""
    choose("trainer.precision", config.trainer.precision, {"auto": None, **PRECISIONS})
    require(config.compile in ("auto", True, False), f"compile={config.compile} is none of auto, true, false")


def settle(config: TrainConfig, device: str, devices: int, saved: dict | None) -> None:
    """Put a decision in the place of every auto: that of the `saved` configuration of a run that goes on, or else what
    suits the kind of device (cpu, cuda, mps) and the length of the run."""
    if config.trainer.precision == "auto":
        bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        config.trainer.precision = saved["trainer"]["precision"] if saved else ("bf16-mixed" if bf16 else "32-true")
    if config.compile == "auto":
        config.compile = (
            saved["compile"] if saved else run_flops(config, devices) >= COMPILE_FROM.get(device, float("inf"))
        )


def run_flops(config: TrainConfig, devices: int) -> float:
    """Operations of the whole training, once model.vocab_size is known."""
    with torch.device("meta"):
        model = GPT(config.model)
    tokens = batch_arithmetic(config.data, devices)[0] * config.model.block_size * config.trainer.max_steps
    return model.flops_per_token() * tokens


def compiler_works(device: torch.device) -> bool:
    """Whether torch.compile does on this device; says so where it does not."""
    try:
        layer = nn.Linear(2, 2).to(device)
        torch.compile(layer, fullgraph=True)(torch.ones(2, 2, device=device))
    except Exception as error:  # whatever the platform lacks, training goes on without it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        say(f"compile: no compiler works here ({reason}); training without")
        torch._dynamo.reset()
        return False
    return True
