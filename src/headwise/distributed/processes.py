"""The processes of a run, one for each device, before torch connects them: which one this is, and what they agree on.

torchrun and SLURM's srun start all of them at once; without these Lightning starts the others when training begins, by
which time the first has settled everything. Torch is not imported until there is something to agree on.
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
PATIENCE = 5.0  # seconds that the others leave to the first to say what is wrong with all of them
TASKS_PER_NODE = "srun: give --ntasks-per-node=N, one for each device of a node"
LONGEST = timedelta(days=1)  # that the others wait for the first to prepare a text


@dataclass(frozen=True)
class Started:
    """How a process was started together with the others of its run."""

    by: str  # torchrun, srun
    rank: int  # of this process, from 0 on
    world: int  # processes, on all nodes
    local: int  # processes on this node, or 0 where it is not known


def started() -> Started | None:
    """Who started this process with others; None if it is alone, or Lightning's own."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        rank, world, local = (int(env[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        return Started("torchrun", rank, world, local)
    interactive = env.get("SLURM_JOB_NAME") in ("bash", "interactive")  # a shell in a job, as Lightning sees it
    if int(env.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in env and not interactive:
        local = int(env.get("SLURM_NTASKS_PER_NODE", 0))
        return Started("srun", int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"]), local)
    return None


@cache
def end_with_parent() -> None:
    """From now on leave when the process that started this one is gone, however it went."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def rank() -> int:
    """0 for the first process of the run, which alone speaks and writes."""
    together = started()
    if together:
        return together.rank
    return int(os.environ.get("LOCAL_RANK", 0)) or int(os.environ.get("NODE_RANK", 0))  # what Lightning gives its own


def agreed(name: str, make: Callable[[], str]) -> str:
    """What the first process makes of it, for all; the others wait until it is made."""
    together = started()
    if together is None:
        return make()
    store = meeting_place()
    if together.rank == 0:
        value = make()
        store.set(name, value)
        return value
    try:
        return store.get(name).decode()
    except RuntimeError as error:  # torch has no one kind of error for it
        raise RunError("the first process of the run has ended, or cannot be reached; it says why") from error


def first_then_others(name: str, make: Callable[[], T]) -> T:
    """What `make` gives, made by the first process and only then by the others, who find what it has left on disk."""
    made = [make()] if rank() == 0 else []
    agreed(name, lambda: "made")
    return made[0] if made else make()


@cache
def meeting_place() -> Store:
    """Where the processes find each other; torch's own process group meets there as well."""
    import torch.distributed as dist

    together = started()
    assert together is not None
    if together.by == "srun":
        require(together.local > 0, TASKS_PER_NODE)
        from lightning.fabric.plugins.environments import SLURMEnvironment

        slurm = SLURMEnvironment(auto_requeue=False)
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = slurm.main_address, str(slurm.main_port)
    store, _, _ = next(dist.rendezvous("env://", together.rank, together.world))
    store.set_timeout(LONGEST)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"headwise/{attempt}", store)
