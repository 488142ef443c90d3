"""The windows of a step depend on (seed, step) alone, and every place of the text is as likely as any other."""

import numpy as np

from headwise.data.sampler import window_starts, windows_at


def test_the_same_seed_and_step_give_the_same_windows_whatever_came_before():
    a = window_starts(7, 31, n_tokens=1009, window=17, batch=5)
    window_starts(7, 30, 1009, 17, 5)
    assert np.array_equal(a, window_starts(7, 31, 1009, 17, 5))
    assert not np.array_equal(a, window_starts(7, 32, 1009, 17, 5))
    assert not np.array_equal(a, window_starts(8, 31, 1009, 17, 5))


def test_windows_fit_and_reach_both_ends():
    starts = np.concatenate([window_starts(0, step, 23, 17, 11) for step in range(97)])
    assert set(starts) == set(range(7))


def test_windows_are_the_text():
    tokens = np.arange(101, dtype=np.uint16)
    windows = windows_at(tokens, np.array([3, 90]), 7)
    assert windows.dtype == np.int64
    assert windows.tolist() == [list(range(3, 10)), list(range(90, 97))]
