"""Which process of a run this is, by what torchrun, srun and Lightning leave in the environment."""

import pytest

from headwise import console as cli
from headwise.distributed import processes
from headwise.distributed.processes import ExternalLaunch, broadcast, rank, rank_zero_first, started

ELASTIC = {"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3", "LOCAL_RANK": "2"}
SLURM = {"SLURM_NTASKS": "6", "SLURM_NTASKS_PER_NODE": "3", "SLURM_PROCID": "4", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("environment", "launch", "number"),
    [
        ({}, None, 0),
        (ELASTIC, ExternalLaunch("torchrun", 5, 6, 3), 5),
        (SLURM, ExternalLaunch("srun", 4, 6, 3), 4),
        (SLURM | ELASTIC, ExternalLaunch("torchrun", 5, 6, 3), 5),  # torchrun within a job
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None, 0),
        (SLURM | {"SLURM_JOB_NAME": "interactive"}, None, 0),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0", "WORLD_SIZE": "2"}, None, 0),  # Lightning's own first process
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, None, 1),
    ],
)
def test_started_and_rank_follow_the_environment(monkeypatch, environment, launch, number):
    for name in (*ELASTIC, *SLURM, "SLURM_JOB_NAME", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert started() == launch
    assert rank() == number


def test_broadcast_and_rank_zero_first_call_make_if_the_process_is_alone():
    assert broadcast("name", lambda: "mine") == "mine"
    assert rank_zero_first("name", lambda: 7) == 7


def test_say_prints_in_the_first_process_only(monkeypatch, capsys):
    cli.say("one")
    monkeypatch.setenv("LOCAL_RANK", "1")
    cli.say("two")
    assert capsys.readouterr().err == "headwise: one\n"


def test_broadcast_gives_all_processes_the_value_of_the_first(monkeypatch):
    """Over a store in this process, in place of the network's."""
    from torch.distributed import HashStore

    shared, order = HashStore(), []
    monkeypatch.setattr(processes, "store", lambda: shared)
    for name, value in ELASTIC.items():
        monkeypatch.setenv(name, value)
    for number in (0, 1, 5):
        monkeypatch.setenv("RANK", str(number))
        assert broadcast("folder", lambda number=number: f"runs/{number}") == "runs/0"
        assert rank_zero_first("text", lambda number=number: order.append(number) or number) == number
    assert order == [0, 1, 5]
