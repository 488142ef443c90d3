"""Training on several devices, with one process for each: ddp, in which each device has the whole model and gradients
are averaged, and fsdp, in which weights, gradients and the optimizer's state are sharded and a block is gathered while
it computes.

Functions marked "collective" must be called by all processes; a process that does not call leaves the others waiting.
"""

from __future__ import annotations

import os
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
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from headwise.config import TrainConfig, TrainerConfig
from headwise.distributed.processes import GRACE_SECONDS, TASKS_PER_NODE, started
from headwise.errors import RunError, choose, require
from headwise.model.sharding import full_state_dict, shard_like


class FSDP(ModelParallelStrategy):
    """Strategy of fully sharded data parallel training (Zhao et al. 2023), with torch's fully_shard. Its checkpoints
    are those of one device: a file of whole tensors, with the optimizer's state numbered by its groups. (Lightning
    numbers it by the module, which gives weights the states of others where there are several groups.)"""

    lightning_restore_optimizer = True  # by load_optimizer_state_dict below

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return full_state_dict(self.lightning_module)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer's state_dict with whole tensors on the first device. Collective."""
        plain = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = plain.state_dict()
        full = {
            i: {name: self.gathered(value) for name, value in values.items()} for i, values in state["state"].items()
        }
        return state | {"state": full}

    def gathered(self, value: Any) -> Any:
        """Return a sharded tensor whole, on the CPU of the first device, and anything else as it is. Collective."""
        if not isinstance(value, DTensor):
            return value
        full = value.full_tensor()
        return full.cpu() if self.is_global_zero else full[:0].cpu()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.lightning_module, dict(checkpoint["state_dict"]), options=options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load each device's shards of the optimizer's state."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            numbers = [i for group in saved["param_groups"] for i in group["params"]]
            shards = {
                i: {k: shard_like(v, p) if torch.is_tensor(v) and v.shape == p.shape else v for k, v in values.items()}
                for i, p in zip(numbers, parameters, strict=True)
                if (values := saved["state"].get(i))
            }
            optimizer.load_state_dict(saved | {"state": shards})


STRATEGIES: dict[str, Any] = {
    "auto": lambda: "auto",  # one device, or ddp
    "ddp": lambda: DDPStrategy(gradient_as_bucket_view=True),  # or each device holds its gradients twice
    "fsdp": FSDP,
}


def trainer_flags(config: TrainerConfig) -> dict[str, Any]:
    """Return the flags of Lightning's Trainer for strategy and devices. With devices=auto, torchrun's or srun's number
    of processes is taken. Raise UserError for what does not go together."""
    launch = started()
    strategy = choose("trainer.strategy", config.strategy, STRATEGIES)()
    supported = config.strategy != "fsdp" or config.precision != "64-true"
    require(supported, "trainer.precision=64-true does not go with trainer.strategy=fsdp; give 32-true, or ddp")
    require(launch is None or launch.local_world_size > 0, TASKS_PER_NODE)
    flags: dict[str, Any] = {"strategy": strategy, "devices": config.devices}
    if launch and config.devices == "auto":
        flags["devices"] = launch.local_world_size
    if launch and launch.by == "srun":
        # A requeued run continues with resume=auto; Lightning's own requeueing uses other files.
        flags["plugins"] = [SLURMEnvironment(auto_requeue=False)]
    return flags


def validate_processes(config: TrainConfig, trainer: L.Trainer) -> None:
    """Raise UserError if the processes that were started are not those of the configuration."""
    launch, devices, nodes = started(), trainer.num_devices, trainer.num_nodes
    if launch:
        local = launch.local_world_size
        remedy = f"give trainer.devices={local} trainer.num_nodes={launch.world_size // local}"
        require(
            devices * nodes == launch.world_size and devices == local,
            f"trainer.devices={config.trainer.devices} with trainer.num_nodes={nodes} does not make "
            f"the {launch.world_size} processes that {launch.by} has started; {remedy}",
        )
    limit = 2 * (os.cpu_count() or 1)
    fits = trainer.strategy.root_device.type != "cpu" or devices <= limit or config.estimate
    too_many = f"trainer.devices={devices} would start as many processes on the {limit // 2} cores of this machine"
    require(fits, f"{too_many}; give at most {limit}")
    is_single = nodes == 1 or launch is not None or config.estimate
    require(is_single, f"trainer.num_nodes={nodes} needs torchrun or srun to start it; see docs/scaling.md")
    is_multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    require(
        not is_multirun or trainer.world_size == 1 or config.estimate,
        f"-m does not go with {trainer.world_size} devices, each of which would start all the runs; start one run "
        "after the other, without -m",
    )


def child_processes(trainer: L.Trainer) -> list[subprocess.Popen]:
    """Return the processes that Lightning has started from this one. Its launcher is private; no public name has
    them."""
    launcher = trainer.strategy.launcher
    return launcher.procs if isinstance(launcher, _SubprocessScriptLauncher) else []


def kill_child_processes(trainer: L.Trainer) -> None:
    """End the processes that were started from this one, which may be waiting for it. (torchrun and srun end theirs.)
    They write no files, and a process that waits in a collective does not react to other signals."""
    for process in child_processes(trainer):
        process.kill()
        process.wait()
    child_processes(trainer).clear()  # or Lightning, which watches them, ends this process too


def is_connection_error(error: RuntimeError) -> bool:
    """Return whether the error says that another process has gone, rather than what went wrong in this one."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def exit_with_failed_process(trainer: L.Trainer) -> NoReturn:
    """Exit with the exit code of the process that failed first, which has printed the reason."""
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        for rank, process in enumerate(child_processes(trainer), start=1):
            code = process.poll()
            if code is not None and code > 0:
                kill_child_processes(trainer)
                sys.exit(code)
            if code is not None and code < 0:
                raise RunError(f"the process of device {rank} was ended by {signal.Signals(-code).name}")
        time.sleep(0.1)
    raise RunError("the connection to another process of the run was lost")
