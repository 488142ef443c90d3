"""What Lightning is given."""

from types import SimpleNamespace

import pytest

from headwise.data.datamodule import TextDataModule
from headwise.errors import UserError


def test_a_text_shorter_than_a_window_is_refused():
    packed = SimpleNamespace(tokens=lambda split: range(17))
    with pytest.raises(UserError, match="block_size=17 must be below the 17 tokens of the training text"):
        TextDataModule(packed, 17, 2, 1, 0)
