"""Which process of a run this is, by what torchrun, srun and Lightning leave in the environment."""

import pytest

from headwise import console as cli
from headwise.distributed import processes
from headwise.distributed.processes import Started, agreed, first_then_others, rank, started

ELASTIC = {"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3", "LOCAL_RANK": "2"}
SLURM = {"SLURM_NTASKS": "6", "SLURM_NTASKS_PER_NODE": "3", "SLURM_PROCID": "4", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("environment", "how", "number"),
    [
        ({}, None, 0),
        (ELASTIC, Started("torchrun", 5, 6, 3), 5),
        (SLURM, Started("srun", 4, 6, 3), 4),
        (SLURM | ELASTIC, Started("torchrun", 5, 6, 3), 5),  # torchrun within a job
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None, 0),
        (SLURM | {"SLURM_JOB_NAME": "interactive"}, None, 0),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0", "WORLD_SIZE": "2"}, None, 0),  # Lightning's own first process
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, None, 1),
    ],
)
def test_a_process_knows_how_it_was_started_and_which_it_is(monkeypatch, environment, how, number):
    for name in (*ELASTIC, *SLURM, "SLURM_JOB_NAME", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert started() == how
    assert rank() == number


def test_alone_there_is_nobody_to_agree_with():
    assert agreed("name", lambda: "mine") == "mine"
    assert first_then_others("name", lambda: 7) == 7


def test_of_several_processes_the_first_alone_speaks(monkeypatch, capsys):
    cli.say("one")
    monkeypatch.setenv("LOCAL_RANK", "1")
    cli.say("two")
    assert capsys.readouterr().err == "headwise: one\n"


def test_what_the_first_makes_is_what_the_others_get(monkeypatch):
    """Over a store in this process, in place of the network's."""
    from torch.distributed import HashStore

    store, order = HashStore(), []
    monkeypatch.setattr(processes, "meeting_place", lambda: store)
    for name, value in ELASTIC.items():
        monkeypatch.setenv(name, value)
    for number in (0, 1, 5):
        monkeypatch.setenv("RANK", str(number))
        assert agreed("folder", lambda number=number: f"runs/{number}") == "runs/0"
        assert first_then_others("text", lambda number=number: order.append(number) or number) == number
    assert order == [0, 1, 5]
