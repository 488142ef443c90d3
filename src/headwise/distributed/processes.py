"""The processes of a run, one for each device, before torch connects them: which one this is, and what it takes from
the first.

torchrun and SLURM's srun start all processes at once. Without them Lightning starts the others when training begins,
after the first has prepared everything. Torch is imported only if there are several processes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from headwise.errors import RunError, require

if TYPE_CHECKING:
    from torch.distributed import Store

T = TypeVar("T")
GRACE_SECONDS = 5.0  # in which the first process can print an error that all of them have
TASKS_PER_NODE = "srun: give --ntasks-per-node=N, one for each device of a node"
STORE_TIMEOUT = timedelta(days=1)  # the first process may prepare a large text


@dataclass(frozen=True)
class ExternalLaunch:
    """How torchrun or srun started this process together with the others of its run."""

    by: str  # torchrun, srun
    rank: int  # of this process, from 0 on
    world_size: int  # processes on all nodes
    local_world_size: int  # processes on this node, or 0 if unknown


def started() -> ExternalLaunch | None:
    """Return how torchrun or srun started this process; None if it is alone or Lightning started it."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        rank, world_size, local = (int(env[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        return ExternalLaunch("torchrun", rank, world_size, local)
    interactive = env.get("SLURM_JOB_NAME") in ("bash", "interactive")  # a shell in a job, as Lightning sees it
    if int(env.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in env and not interactive:
        local = int(env.get("SLURM_NTASKS_PER_NODE", 0))
        return ExternalLaunch("srun", int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"]), local)
    return None


PARENT = "HEADWISE_PARENT"  # environment variable: the process that starts those of the other devices


@cache
def end_with_parent(parent: int) -> None:
    """Start a thread that ends this process as soon as its parent process, `parent`, is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def rank() -> int:
    """Return 0 in the first process of the run, the only one that prints and writes, and another number elsewhere."""
    launch = started()
    if launch:
        return launch.rank
    return int(os.environ.get("LOCAL_RANK", 0)) or int(os.environ.get("NODE_RANK", 0))  # as Lightning sets them


def broadcast(name: str, make: Callable[[], str]) -> str:
    """Return the value that the first process makes; the others wait for it. `name` is its key in the store."""
    launch = started()
    if launch is None:
        return make()
    shared = store()
    if launch.rank == 0:
        value = make()
        shared.set(name, value)
        return value
    try:
        return shared.get(name).decode()
    except RuntimeError as error:  # torch has no one kind of error for it
        raise RunError("the first process of the run has ended, or cannot be reached; it says why") from error


def rank_zero_first(name: str, make: Callable[[], T]) -> T:
    """Return `make()`, called by the first process and then by the others, which find its files on disk."""
    made = [make()] if rank() == 0 else []
    broadcast(name, lambda: "made")
    return made[0] if made else make()


@cache
def store() -> Store:
    """Return the store that connects the processes; torch's process group uses the same one."""
    import torch.distributed as dist

    launch = started()
    assert launch is not None
    if launch.by == "srun":
        require(launch.local_world_size > 0, TASKS_PER_NODE)
        from lightning.fabric.plugins.environments import SLURMEnvironment

        slurm = SLURMEnvironment(auto_requeue=False)
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = slurm.main_address, str(slurm.main_port)
    shared, _, _ = next(dist.rendezvous("env://", launch.rank, launch.world_size))
    shared.set_timeout(STORE_TIMEOUT)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"headwise/{attempt}", shared)
