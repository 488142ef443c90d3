"""Objects of other packages that the user's own configuration names by `_target_`, as Hydra's instantiate makes them.

    instantiate("callbacks.extra", [{"_target_": "lightning.pytorch.callbacks.DeviceStatsMonitor"}], L.Callback)

Only configurations that the user gives are read: a checkpoint never names code to run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from headwise.errors import UserError, first_line, require


def instantiate(key: str, entries: Iterable[Any], kind: Any) -> list[Any]:
    """Return the object of each entry, {"_target_": class or function, argument: value}. Modules of the current folder
    can be named too. Raise UserError, naming `key`, for an entry that makes none of the class `kind`."""
    from hydra.utils import instantiate as hydra_instantiate

    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    made = []
    for entry in entries:
        example = "{_target_: package.Class, argument: value}"
        require(isinstance(entry, dict) and "_target_" in entry, f"{key}: {entry} has no _target_; give {example}")
        try:
            one = hydra_instantiate(entry)
        except Exception as error:  # whatever the class raises
            cause: BaseException = error
            while cause.__cause__ or cause.__context__:
                cause = cause.__cause__ or cause.__context__ or cause
            raise UserError(f"{key}: {entry['_target_']}: {first_line(cause)}") from error
        require(isinstance(one, kind), f"{key}: {entry['_target_']} makes no {kind.__name__} of Lightning")
        made.append(one)
    return made
