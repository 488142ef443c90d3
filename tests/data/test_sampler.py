"""The sampler: a function of (seed, step) that shows every window once an epoch."""

import numpy as np
import pytest

from headwise.data.sampler import permuted, window_starts, windows_at

N, WINDOW, BATCH = 1009, 12, 7  # tokens, so 90 windows in an epoch


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 90, 1009])
def test_permuted_is_a_permutation_and_another_key_gives_another(n):
    orders = [permuted(np.arange(n), n, np.arange(seed, seed + 6, dtype=np.uint64)) for seed in (1, 2)]
    for order in orders:
        assert sorted(order) == list(range(n))
    assert n < 16 or not np.array_equal(*orders)


def test_permuted_leaves_no_order_behind():
    order = permuted(np.arange(1009), 1009, np.arange(3, 9, dtype=np.uint64))
    assert abs(np.corrcoef(order, np.arange(1009))[0, 1]) < 0.1
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.1


def test_every_window_comes_once_an_epoch_whatever_the_batch():
    per_epoch = (N - WINDOW) // (WINDOW - 1)
    for batch in (1, 7, per_epoch, 101):
        steps = -(-3 * per_epoch // batch)
        starts = np.concatenate([window_starts(5, step, N, WINDOW, batch) for step in range(steps)])
        firsts = set()
        for epoch in range(3):
            own = np.sort(starts[epoch * per_epoch : (epoch + 1) * per_epoch])
            assert np.array_equal(np.diff(own), np.full(per_epoch - 1, WINDOW - 1))  # side by side, none twice
            assert own[0] >= 0
            assert own[-1] + WINDOW <= N
            firsts.add(int(own[0]))
        assert len(firsts) > 1  # epochs cut the text at other places


def test_a_step_depends_on_seed_and_step_alone():
    again = [window_starts(5, step, N, WINDOW, BATCH) for step in (3, 4, 3)]
    assert np.array_equal(again[0], again[2])
    assert not np.array_equal(again[0], again[1])
    assert not np.array_equal(again[0], window_starts(6, 3, N, WINDOW, BATCH))


def test_batches_are_slices_of_one_sequence():
    large = window_starts(5, 2, N, WINDOW, 2 * BATCH)
    small = [window_starts(5, step, N, WINDOW, BATCH) for step in (4, 5)]
    assert np.array_equal(large, np.concatenate(small))


@pytest.mark.parametrize("n", [WINDOW, WINDOW + 1, 2 * WINDOW])
def test_a_text_of_barely_one_window_is_enough(n):
    for step in range(5):
        starts = window_starts(0, step, n, WINDOW, 3)
        assert (starts >= 0).all()
        assert (starts + WINDOW <= n).all()


def test_windows_are_what_stands_there():
    tokens = np.arange(100, dtype=np.uint16)
    assert windows_at(tokens, np.array([3, 90]), 5).tolist() == [[3, 4, 5, 6, 7], [90, 91, 92, 93, 94]]
