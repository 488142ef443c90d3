"""A wrong name gets the right ones, and the nearest."""

import pytest

from headwise.errors import UserError, choose


def test_choose_names_key_value_choices_and_the_nearest():
    with pytest.raises(UserError, match=r"model.norm=rmsnrm is none of layernorm, rmsnorm; did you mean rmsnorm\?"):
        choose("model.norm", "rmsnrm", {"layernorm": 1, "rmsnorm": 2})
    assert choose("model.norm", "rmsnorm", {"rmsnorm": 2}) == 2


def test_nothing_is_suggested_when_nothing_is_near():
    with pytest.raises(UserError, match=r"none of a, b$"):
        choose("key", "zebra", {"a": 1, "b": 2})
