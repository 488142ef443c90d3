"""Tokens in several files are read as if they were in one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwise.data.sampler import windows_at
from headwise.data.tokens import open_tokens

ALL = np.random.default_rng(5).integers(1 << 16, size=1009).astype("<u2")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    parts = np.split(ALL, [7, 8, 509, 1008])
    for i, part in enumerate(parts):
        part.tofile(folder / f"{i}.bin")
    return open_tokens([folder / f"{i}.bin" for i in range(len(parts))], "<u2")


@given(start=st.integers(-1100, 1100), stop=st.integers(-1100, 1100))
def test_slices_are_those_of_one_array(shards, start, stop):
    assert len(shards) == len(ALL)
    assert shards[start:stop].tolist() == ALL[start:stop].tolist()
    assert shards[:].tolist() == ALL.tolist()


def test_windows_across_files_are_those_of_one_array(shards):
    starts = np.arange(1009 - 13)
    assert np.array_equal(windows_at(shards, starts, 13), windows_at(ALL, starts, 13))


def test_one_file_is_a_memory_map(tmp_path):
    ALL.tofile(tmp_path / "all.bin")
    tokens = open_tokens([tmp_path / "all.bin"], "<u2")
    assert isinstance(tokens, np.memmap)
    assert tokens.tolist() == ALL.tolist()
