"""A minimal GPT framework in which attention can be seen.

    import headwise as hw

    hw.train("model.n_layer=2", "trainer.max_steps=200")
    checkpoint = hw.load()                            # the newest run; or a path, or the name of a model of the Hub
    print(hw.generate(checkpoint, "def "))
    with hw.capture(checkpoint.model) as maps:        # maps[layer].pattern
        ...
    hw.show("The lions left.", checkpoint)            # the attention page, in a notebook

Each name is imported when it is first used, so that `import headwise` takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwise.checkpoint import Checkpoint as Checkpoint
    from headwise.checkpoint import load as load
    from headwise.commands.train import train as train
    from headwise.config import GPTConfig as GPTConfig
    from headwise.config import OptimizerConfig as OptimizerConfig
    from headwise.config import ScheduleConfig as ScheduleConfig
    from headwise.data.datamodule import TextDataModule as TextDataModule
    from headwise.errors import UserError as UserError
    from headwise.evaluation import evaluate as evaluate
    from headwise.generation.generate import generate as generate
    from headwise.inspection.hooks import capture as capture
    from headwise.inspection.hooks import edit_heads as edit_heads
    from headwise.inspection.snapshot import head_scores as head_scores
    from headwise.inspection.snapshot import show as show
    from headwise.model.gpt import GPT as GPT
    from headwise.registry import register as register
    from headwise.training.lightning_module import TrainingModule as TrainingModule

    __version__: str

MODULES = {
    "Checkpoint": "headwise.checkpoint",
    "load": "headwise.checkpoint",
    "train": "headwise.commands.train",
    "GPTConfig": "headwise.config",
    "OptimizerConfig": "headwise.config",
    "ScheduleConfig": "headwise.config",
    "TextDataModule": "headwise.data.datamodule",
    "UserError": "headwise.errors",
    "evaluate": "headwise.evaluation",
    "generate": "headwise.generation.generate",
    "capture": "headwise.inspection.hooks",
    "edit_heads": "headwise.inspection.hooks",
    "head_scores": "headwise.inspection.snapshot",
    "show": "headwise.inspection.snapshot",
    "GPT": "headwise.model.gpt",
    "register": "headwise.registry",
    "TrainingModule": "headwise.training.lightning_module",
}


def __getattr__(name: str) -> Any:
    """Return a public name, from the module that defines it (PEP 562)."""
    if name == "__version__":
        return import_module("importlib.metadata").version("headwise")
    if name not in MODULES:
        raise AttributeError(f"module 'headwise' has no attribute {name!r}")
    return getattr(import_module(MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *MODULES, "__version__"])
