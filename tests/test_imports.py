"""A module imports only rooms that come before its own; the model needs torch alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOMS = """
errors processes cli files model config stream tokenizer checkpoint hf data writer inference generation session
evaluation inspection prepare training multirun launch sweep scripts
""".split()  # noqa: SIM905
ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "src/headwise").rglob("*.py"), *(ROOT / "scripts").glob("*.py")])


def room_of(file):
    if file.parent.name == "scripts":
        return "scripts"
    return file.relative_to(ROOT / "src/headwise").parts[0].removesuffix(".py")


def imports(file):
    """Every module that the file imports anywhere, as dotted names."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_downward(file):
    if file.name == "__init__.py" and file.parent.name == "headwise":
        assert not list(imports(file))
        return
    mine = ROOMS.index(room_of(file))
    for name in imports(file):
        if name.startswith("headwise."):
            room = name.split(".")[1]
            assert ROOMS.index(room) <= mine, f"{file.name} imports {name}"
    if room_of(file) == "model":
        outside = {name.split(".")[0] for name in imports(file)} - set(sys.stdlib_module_names)
        assert outside <= {"torch", "headwise"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("headwise.launch", "torch"),
        ("headwise.checkpoint", "lightning"),
        ("headwise.evaluation", "lightning"),
        ("headwise.generation", "hydra"),
        ("headwise.generation", "matplotlib"),
    ],
)
def test_light_modules_stay_light(module, heavy):
    code = f"import sys, {module}; sys.exit('{heavy}' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
