"""Objects of other packages, named by the user's configuration."""

import lightning as L
import pytest
from lightning.pytorch.callbacks import EarlyStopping

from headwise.errors import UserError
from headwise.instantiate import instantiate


def test_instantiate_makes_each_entry_with_its_arguments(tmp_path, monkeypatch):
    (tmp_path / "own_parts_7.py").write_text("import lightning as L\nclass Mine(L.Callback):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    stopping = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val_loss", "patience": 7}
    first, second = instantiate("callbacks.extra", [stopping, {"_target_": "own_parts_7.Mine"}], L.Callback)
    assert (type(first), first.patience) == (EarlyStopping, 7)
    assert type(second).__name__ == "Mine"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("EarlyStopping", "callbacks.extra: EarlyStopping has no _target_; give {_target_: package.Class"),
        ({"monitor": "val_loss"}, "callbacks.extra: {'monitor': 'val_loss'} has no _target_"),
        ({"_target_": "no_such_package.Mine"}, "callbacks.extra: no_such_package.Mine: No module named 'no_such_p"),
        ({"_target_": "lightning.pytorch.callbacks.Nothing"}, "callbacks.extra: lightning.pytorch.callbacks.Nothing: "),
        (
            {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "x", "patients": 3},
            "callbacks.extra: lightning.pytorch.callbacks.EarlyStopping: EarlyStopping.__init__() got an unexpected",
        ),
        ({"_target_": "builtins.dict"}, "callbacks.extra: builtins.dict makes no Callback of Lightning"),
    ],
)
def test_instantiate_refuses_an_entry_in_one_line(entry, message):
    with pytest.raises(UserError) as error:
        instantiate("callbacks.extra", [entry], L.Callback)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
