"""Several devices, a process for each. With ddp each has the whole model and its gradients are averaged; with fsdp each
keeps a part of every matrix, of its gradient and of the optimizer's state, and a block is gathered when it is its turn.

What says so must be called by all processes alike: a process that does not come leaves the others waiting.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from headwise.config import TrainConfig, TrainerConfig
from headwise.distributed.processes import PATIENCE, TASKS_PER_NODE, started
from headwise.errors import RunError, choose, require
from headwise.model.gpt import GPT


class FSDP(ModelParallelStrategy):
    """Fully sharded data parallel (Zhao et al. 2023), torch's second. Checkpoints are those of one device: a file of
    whole tensors, the optimizer's state numbered by its groups. (Lightning's own loading numbers by the module, which
    gives weights the states of others where there are several groups.)"""

    lightning_restore_optimizer = True  # by load_optimizer_state_dict below

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """All weights, whole, on the first device; for all to call."""
        assert self.lightning_module is not None
        return whole_state(self.lightning_module, self.is_global_zero)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state_dict, whole, on the first device; for all to call."""
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = plain.state_dict()
        every = {
            i: {name: gathered(value, self.is_global_zero) for name, value in of_one.items()}
            for i, of_one in state["state"].items()
        }
        return state | {"state": every}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Each device takes its part of every weight."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        weights = {name: part_of(value, own[name]) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(weights, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each device takes its part of what belongs to each weight."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            order = [i for group in saved["param_groups"] for i in group["params"]]
            parts = {
                i: {name: part_of(v, p) if torch.is_tensor(v) and v.shape == p.shape else v for name, v in own.items()}
                for i, p in zip(order, parameters, strict=True)
                if (own := saved["state"].get(i))
            }
            optimizer.load_state_dict(saved | {"state": parts})


def part_of(full: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this device keeps, if `like`, of the same shape, is kept in parts."""
    if not isinstance(like, DTensor):
        return full
    # Each device has the whole: nothing is sent.
    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def gathered(value: Any, wanted: bool = True) -> Any:
    """A tensor kept in parts, whole, on the CPU, if it is `wanted` here; for all to call. Anything else as it is."""
    if not isinstance(value, DTensor):
        return value
    full = value.full_tensor()
    return full.cpu() if wanted else full[:0].cpu()


def number(value: Tensor) -> Tensor:
    """A norm or another single number, of all parts where a tensor is kept in parts; for all to call."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_state(module: nn.Module, wanted: bool) -> dict[str, Tensor]:
    """A module's state_dict with whole tensors where it is `wanted`, one for those that are tied; for all to call."""
    named = module.state_dict(keep_vars=True)
    once = {id(tensor): gathered(tensor.detach(), wanted) for tensor in {id(t): t for t in named.values()}.values()}
    return {name: once[id(tensor)] for name, tensor in named.items()}


def shard(model: GPT, mesh: DeviceMesh) -> None:
    """Leave each device of the mesh its part of every weight. A block is gathered for its own forward pass, and again
    for its backward pass; embedding, last norm and head together for the whole of each. Between passes all is in parts,
    also after a validation, which has no backward pass."""
    if isinstance(model, FSDPModule):
        return
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def whole_model(model: GPT, trainer: L.Trainer) -> GPT | None:
    """The model to look at between steps: on the first device, None on the others. Where it is kept in parts it is a
    copy, which the first device must have room for; for all to call."""
    first = trainer.is_global_zero
    if not isinstance(model, FSDPModule):
        return model if first else None
    weights = whole_state(model, first)
    if not first:
        return None
    like = next(model.parameters())
    return GPT.from_weights(model.config, weights).to(like.device, like.dtype).train(model.training)


def compile_in_place(model: GPT) -> None:
    """Compile without changing the weights' names. Of a model kept in parts, what each block does once it is gathered:
    gathering itself stays outside."""
    if not isinstance(model, FSDPModule):
        model.compile()
        return
    for block in model.blocks:
        block.forward = torch.compile(block.forward)


STRATEGIES: dict[str, Any] = {
    "auto": lambda: "auto",  # one device, or ddp
    "ddp": lambda: DDPStrategy(gradient_as_bucket_view=True),  # or each device holds its gradients twice
    "fsdp": FSDP,
}


def flags(wanted: TrainerConfig) -> dict[str, Any]:
    """What Lightning's Trainer is told of strategy and devices. auto devices are as many as were started."""
    together = started()
    strategy = choose("trainer.strategy", wanted.strategy, STRATEGIES)()
    right = wanted.strategy != "fsdp" or wanted.precision != "64-true"
    require(right, "trainer.precision=64-true does not go with trainer.strategy=fsdp; give 32-true, or ddp")
    require(together is None or together.local > 0, TASKS_PER_NODE)
    made: dict[str, Any] = {"strategy": strategy, "devices": wanted.devices}
    if together and wanted.devices == "auto":
        made["devices"] = together.local
    if together and together.by == "srun":
        # What goes on after a requeue is resume=auto; Lightning's own way writes and looks for files elsewhere.
        made["plugins"] = [SLURMEnvironment(auto_requeue=False)]
    return made


def check(config: TrainConfig, trainer: L.Trainer) -> None:
    """Raise UserError where the processes that were started are not those of the configuration."""
    together, each, nodes = started(), trainer.num_devices, trainer.num_nodes
    if together:
        right = f"trainer.devices={together.local} trainer.num_nodes={together.world // together.local}"
        require(
            each * nodes == together.world and each == together.local,
            f"trainer.devices={config.trainer.devices} with trainer.num_nodes={nodes} does not make "
            f"the {together.world} processes that {together.by} has started; give {right}",
        )
    alone = nodes > 1 and together is None and not config.estimate
    require(not alone, f"trainer.num_nodes={nodes} needs torchrun or srun to start it; see docs/scaling.md")
    several = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN and trainer.world_size > 1
    require(
        not several or config.estimate,
        f"-m does not go with {trainer.world_size} devices, each of which would begin all runs anew; start one run "
        "after the other, without -m",
    )


def started_here(trainer: L.Trainer) -> list[subprocess.Popen]:
    """The processes that Lightning has started from this one."""
    launcher = trainer.strategy.launcher
    return launcher.procs if isinstance(launcher, _SubprocessScriptLauncher) else []


def end_others(trainer: L.Trainer) -> None:
    """End the processes that were started from this one, which may be waiting for it. (torchrun and srun look after
    theirs.)"""
    for process in started_here(trainer):
        process.kill()  # they write no files, and a process that waits for another hears nothing else
        process.wait()
    started_here(trainer).clear()  # or Lightning, which watches them, ends this process too


def is_lost(error: BaseException) -> bool:
    """Whether it says that another process has gone, rather than what went wrong in this one."""
    return isinstance(error, RuntimeError) and (isinstance(error, torch.distributed.DistError) or "gloo" in str(error))


def leave_after_another(trainer: L.Trainer) -> NoReturn:
    """End with the exit code of the process that ended first and has said why."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for rank, process in enumerate(started_here(trainer), start=1):
            code = process.poll()
            if code is not None and code > 0:
                end_others(trainer)
                sys.exit(code)
            if code is not None and code < 0:
                raise RunError(f"the process of device {rank} was ended by {signal.Signals(-code).name}")
        time.sleep(0.1)
    raise RunError("the connection to another process of the run was lost")
