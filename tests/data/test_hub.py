"""Datasets of the Hub, through its real client and a server of our own; and what is said where it does not answer."""

import os
import subprocess
import sys
import time

import pytest

from tests.hub import hub_here
from tests.small import ROOT

STORIES = ["data=hub", "data.name=me/stories", "data.column=story"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder for the Hub's copies, and a run that has fetched them."""
    home = tmp_path_factory.mktemp("home")
    with hub_here() as address:
        done = prepare(home, address, "data.val_split=validation", *STORIES)
    assert done.returncode == 0, done.stderr
    return home, done


def prepare(home, address, *overrides, **more):
    """scripts/prepare_data.py in a process of its own, since the Hub's client reads its settings once."""
    command = [sys.executable, ROOT / "scripts/prepare_data.py", *overrides]
    environment = os.environ | {"HF_HOME": str(home), "HF_ENDPOINT": address, "HF_HUB_DISABLE_TELEMETRY": "1"} | more
    environment.pop("HF_HUB_OFFLINE", None) if "HF_HUB_OFFLINE" not in more else None
    return subprocess.run(command, capture_output=True, text=True, cwd=home, env=environment, check=False)


def test_a_dataset_is_prepared_with_its_own_splits(home):
    told = home[1].stdout
    assert "documents        101 for training, 11 held out" in told
    assert "    train story 0." in told


def test_without_a_network_the_copy_of_before_is_used_and_nothing_is_tokenized_again(home):
    done = prepare(home[0], "http://127.0.0.1:9", "data.val_split=validation", *STORIES)
    assert done.stdout == home[1].stdout
    assert "http://127.0.0.1:9 does not answer" in done.stderr
    assert "tokenizing" not in done.stderr


def test_streaming_gives_the_same_rows_and_keeps_their_tokens_alone(tmp_path):
    with hub_here() as address:
        chosen = ["data.streaming=true", "data.max_documents=7", "data.split_by=documents", "data.val_fraction=0.3"]
        done = prepare(tmp_path, address, *chosen, *STORIES)
        assert done.returncode == 0, done.stderr
        assert "documents        5 for training, 2 held out" in done.stdout
        assert "train story 2" in done.stdout
        assert "train story 3" not in done.stdout  # the fourth is held out, as four times 0.3 is above 1
        assert not list(tmp_path.rglob("*.arrow"))
        assert "tokenizing" not in prepare(tmp_path, address, *chosen, *STORIES).stderr
        refused = prepare(tmp_path, address, "data.streaming=true", *STORIES)
        assert refused.returncode == 2
        assert "data.split_by=characters needs the length of the text" in refused.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["data.name=me/nothing"], "error: data.name=me/nothing is not a dataset of http"),
        (["data.split=trian"], "Unknown split"),
        (["data.config=x"], "BuilderConfig 'x' not found. Available: ['default']"),
        (
            ["data.column=text"],
            "train has no column text, only story; give data.column=story",
        ),
    ],
)
def test_wrong_names_are_one_line(home, wrong, message):
    with hub_here() as address:
        done = prepare(home[0], address, *STORIES, *wrong)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_hub_or_copy_the_error_comes_at_once_and_says_what_to_do(tmp_path):
    began = time.monotonic()
    done = prepare(tmp_path, "http://127.0.0.1:9", *STORIES)
    assert time.monotonic() - began < 20  # imports included
    assert done.returncode == 2
    for part in (
        "http://127.0.0.1:9 does not answer",
        "hf download me/stories",
        "give data=files data.column=story with data.path and data.val_path",
    ):
        assert part in done.stderr
    assert not (tmp_path / "data").exists()
    offline = prepare(tmp_path, "http://127.0.0.1:9", *STORIES, HF_HUB_OFFLINE="1")
    assert offline.returncode == 2
    assert "can be loaded neither from the Hub" in offline.stderr
