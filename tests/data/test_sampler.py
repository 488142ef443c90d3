"""The sampler: windows are a function of (seed, step), each once an epoch; validation predicts every token once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headwise.data.sampler import TrainBatches, ValBatches, open_tokens, permuted, window_starts, windows_at
from headwise.model.gpt import IGNORE

N, WINDOW, BATCH = 1009, 12, 7  # tokens, so 90 windows in an epoch


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 90, 1009])
def test_permuted_is_a_permutation_and_another_key_gives_another(n):
    orders = [permuted(np.arange(n), n, np.arange(seed, seed + 6, dtype=np.uint64)) for seed in (1, 2)]
    for order in orders:
        assert sorted(order) == list(range(n))
    assert n < 16 or not np.array_equal(*orders)


def test_permuted_keeps_no_trace_of_the_order():
    order = permuted(np.arange(1009), 1009, np.arange(3, 9, dtype=np.uint64))
    assert abs(np.corrcoef(order, np.arange(1009))[0, 1]) < 0.1
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.1


def test_window_starts_use_every_window_once_in_a_pass_whatever_the_batch():
    per_epoch = (N - WINDOW) // (WINDOW - 1)
    for batch in (1, 7, per_epoch, 101):
        steps = -(-3 * per_epoch // batch)
        starts = np.concatenate([window_starts(5, step, N, WINDOW, batch) for step in range(steps)])
        firsts = set()
        for epoch in range(3):
            own = np.sort(starts[epoch * per_epoch : (epoch + 1) * per_epoch])
            assert np.array_equal(np.diff(own), np.full(per_epoch - 1, WINDOW - 1))  # adjacent, none twice
            assert own[0] >= 0
            assert own[-1] + WINDOW <= N
            firsts.add(int(own[0]))
        assert len(firsts) > 1  # epochs start from different tokens


def test_window_starts_depend_on_seed_and_step_alone():
    again = [window_starts(5, step, N, WINDOW, BATCH) for step in (3, 4, 3)]
    assert np.array_equal(again[0], again[2])
    assert not np.array_equal(again[0], again[1])
    assert not np.array_equal(again[0], window_starts(6, 3, N, WINDOW, BATCH))


def test_window_starts_of_a_small_batch_are_part_of_a_large_one():
    large = window_starts(5, 2, N, WINDOW, 2 * BATCH)
    small = [window_starts(5, step, N, WINDOW, BATCH) for step in (4, 5)]
    assert np.array_equal(large, np.concatenate(small))


@pytest.mark.parametrize("n", [WINDOW, WINDOW + 1, 2 * WINDOW])
def test_window_starts_fit_a_text_of_barely_one_window(n):
    for step in range(5):
        starts = window_starts(0, step, n, WINDOW, 3)
        assert (starts >= 0).all()
        assert (starts + WINDOW <= n).all()


def test_windows_at_read_the_tokens_from_each_start():
    tokens = np.arange(100, dtype=np.uint16)
    assert windows_at(tokens, np.array([3, 90]), 5).tolist() == [[3, 4, 5, 6, 7], [90, 91, 92, 93, 94]]


TOKENS = np.arange(1009, dtype=np.uint16)


def train_batches(batch=6, accumulate=1, **arguments):
    return TrainBatches(TOKENS, 17, batch, seed=3, accumulate=accumulate, **arguments)


def test_train_batches_have_the_next_tokens_as_targets():
    for inputs, targets in train_batches().steps(0, 5):
        assert inputs.shape == targets.shape == (6, 17)
        assert torch.equal(targets, inputs + 1)


def test_train_batches_are_those_of_window_starts():
    for step, (inputs, _) in enumerate(train_batches().steps(0, 70)):
        assert inputs[:, 0].tolist() == window_starts(3, step, len(TOKENS), 18, 6).tolist()


def test_train_batches_from_a_later_step_are_the_same():
    for (a, _), (b, _) in zip(list(train_batches().steps(0, 9))[4:], train_batches().steps(4, 9), strict=True):
        assert torch.equal(a, b)


def test_train_batches_accumulated_are_the_whole_batch_in_parts():
    parts = [inputs for inputs, _ in train_batches(batch=2, accumulate=3).steps(0, 2)]
    whole = [inputs for inputs, _ in train_batches().steps(0, 2)]
    assert torch.equal(torch.cat(parts), torch.cat(whole))


def test_train_batches_go_from_the_next_step_to_the_end_of_its_epoch():
    batches = train_batches(batch=5, accumulate=2)
    assert (batches.n_steps, len(batches)) == (1009 // (10 * 17), 10)
    every = [inputs for inputs, _ in batches.steps(0, 10)]
    for first, stop in ((0, 5), (3, 5), (5, 10), (9, 10)):
        later = train_batches(batch=5, accumulate=2, next_step=lambda first=first: first)
        expected = every[2 * first : 2 * stop]
        assert all(torch.equal(a, b) for (a, _), b in zip(later, expected, strict=True))
    assert len(train_batches(batch=5, accumulate=2, n_steps=7)) == 14
    assert train_batches(batch=1009).n_steps == 1


@pytest.mark.parametrize("n", [2, 17, 18, 19, 1009])
def test_val_batches_predict_every_token_but_the_first_exactly_once(n):
    batches = ValBatches(TOKENS[:n], 17, 1009)
    batches.rows = 5
    batches = list(batches)
    counted = torch.cat([targets[targets != IGNORE] for _, targets in batches])
    assert counted.tolist() == list(range(1, n))
    for inputs, targets in batches:
        real = targets != IGNORE
        assert torch.equal(inputs[real] + 1, targets[real])


ALL = np.random.default_rng(5).integers(1 << 16, size=1009).astype("<u2")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    parts = np.split(ALL, [7, 8, 509, 1008])
    for i, part in enumerate(parts):
        part.tofile(folder / f"{i}.bin")
    return open_tokens([folder / f"{i}.bin" for i in range(len(parts))], "<u2")


@given(start=st.integers(-1100, 1100), stop=st.integers(-1100, 1100))
def test_slices_of_tokens_in_several_files_are_those_of_one_array(shards, start, stop):
    assert len(shards) == len(ALL)
    assert shards[start:stop].tolist() == ALL[start:stop].tolist()
    assert shards[:].tolist() == ALL.tolist()


def test_windows_across_files_are_those_of_one_array(shards):
    starts = np.arange(1009 - 13)
    assert np.array_equal(windows_at(shards, starts, 13), windows_at(ALL, starts, 13))


def test_tokens_in_one_file_are_a_memory_map(tmp_path):
    ALL.tofile(tmp_path / "all.bin")
    tokens = open_tokens([tmp_path / "all.bin"], "<u2")
    assert isinstance(tokens, np.memmap)
    assert tokens.tolist() == ALL.tolist()
