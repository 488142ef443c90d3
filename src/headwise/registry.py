"""The parts that a configuration selects by name: Headwise's own, and those that a user's plugins register.

    @register("norm", "mine")                          # in my_parts.py
    def my_norm(width, config): ...

    load_plugins(["my_parts.py"])                      # plugins=[my_parts.py] model.norm=mine

Each kind has one table from names to parts. Plugins are the user's own files or modules: they are imported where the
user names them, on the command line or in Python, and never because a checkpoint does.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from headwise.errors import UserError, choose, first_line

T = TypeVar("T")
KEYS = {  # kind of part -> the key that selects one by name; None: all that are registered are used
    "norm": "model.norm",
    "position": "model.position",
    "mlp": "model.mlp",
    "attention": "model.attention",
    "init": "model.init",
    "optimizer": "optimizer.kind",
    "schedule": "schedule.kind",
    "tokenizer": "tokenizer.kind",
    "source": "data.source",
    "head_metric": None,
    "input": None,
}
MODEL_KINDS = ("norm", "position", "mlp", "attention", "init")  # without which a model cannot be built
TABLES: dict[str, dict[str, Any]] = {kind: {} for kind in KEYS}
OWNERS: dict[tuple[str, str], str] = {}  # (kind, name) of a user's part -> the plugin that has registered it
IN_PYTHON = "Python code"  # the owner of what is registered outside a plugin
loading: list[str] = []  # the plugins that are being imported


def table(kind: str, own: dict[str, T]) -> dict[str, T]:
    """Return the table of a kind, with Headwise's own parts first. Raise UserError if a plugin has taken a name."""
    known = TABLES[kind]
    taken = [name for name in own if (kind, name) in OWNERS]
    if taken:
        raise UserError(f"{KEYS[kind] or kind}={taken[0]} is one of Headwise's own; register yours under another name")
    others = {name: part for name, part in known.items() if name not in own}
    known.clear()
    known.update({**own, **others})
    return known


def register(kind: str, name: str) -> Callable[[T], T]:
    """Return a decorator that adds a class or function to the parts of a kind under a name. docs/plugins.md says what
    each kind is called with. Raise UserError for an unknown kind, or the name of another part."""
    parts = choose("kind", kind, TABLES)

    def add(part: T) -> T:
        owner = loading[-1] if loading else IN_PYTHON
        if name in parts and OWNERS.get((kind, name)) != owner:
            raise UserError(f"{kind} {name} is registered already; choose another name")
        parts[name] = part
        OWNERS[kind, name] = owner
        return part

    return add


def load_plugins(plugins: Iterable[str]) -> None:
    """Import files or modules that register parts, each once. Raise UserError, naming the plugin, if one fails."""
    for plugin in map(str, [plugins] if isinstance(plugins, str) else plugins):
        path = Path(plugin).expanduser().resolve()
        is_file = plugin.endswith(".py") or path.is_file()
        name = f"headwise_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}" if is_file else plugin
        if name in sys.modules:
            continue
        if is_file and not path.is_file():
            raise UserError(f"plugins={plugin} does not exist; give a Python file or a module that can be imported")
        loading.append(plugin)
        try:
            if not is_file:
                importlib.import_module(name)
                continue
            spec: Any = importlib.util.spec_from_file_location(name, path)
            sys.modules[name] = module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        except Exception as error:  # whatever the user's code raises
            sys.modules.pop(name, None)
            where = getattr(error, "lineno", None)
            line = f" (line {where})" if where else ""
            raise UserError(f"plugins={plugin}: {type(error).__name__}: {first_line(error)}{line}") from error
        finally:
            loading.pop()


def plugged_parts(names: dict[str, str]) -> list[dict[str, str]]:
    """Return those of {kind: name} that a user has registered, each with its plugin, as checkpoints record them."""
    owners = {(kind, name): OWNERS.get((kind, name)) for kind, name in names.items()}
    return [{"kind": kind, "name": name, "plugin": owner} for (kind, name), owner in owners.items() if owner]


def require_parts(needed: Iterable[dict[str, str]], what: str) -> None:
    """Raise UserError if a part that `what`, such as a checkpoint, has recorded is not registered here."""
    for part in needed:
        kind, name, plugin = (str(part.get(field)) for field in ("kind", "name", "plugin"))
        if name not in TABLES.get(kind, {}):
            file = "FILE" if plugin == IN_PYTHON else plugin
            remedy = f"give --plugin {file}, plugins=[{file}] when training, or hw.load(path, plugins=[...])"
            raise UserError(f"{what} needs {KEYS.get(kind) or kind}={name}, which {plugin} has registered; {remedy}")
