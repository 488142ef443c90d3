"""Files and functions are short, a name is defined once, and private names of libraries are used in one place."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "src/headwise").rglob("*.py"), *(ROOT / "scripts").glob("*.py")])
TREES = {file.relative_to(ROOT).as_posix(): ast.parse(file.read_text()) for file in FILES}
PUBLIC = {"_asdict", "_exit", "_target_"}  # of namedtuple, os and Hydra, which only look private
PRIVATE = {  # private names of libraries, where nothing public does the same; each has a test that fails without it
    "src/headwise/distributed/strategies.py": {"_SubprocessScriptLauncher"},
    "src/headwise/generation/fast.py": {"_is_mkldnn_bf16_supported", "_linear_pointwise", "_reorder_linear_weight"},
    "src/headwise/sweep/study.py": {"_trial_id"},
}


@pytest.mark.parametrize("file", TREES)
def test_files_have_at_most_300_lines_and_functions_60(file):
    assert len((ROOT / file).read_text().splitlines()) <= 300
    functions = [node for node in ast.walk(TREES[file]) if isinstance(node, ast.FunctionDef)]
    assert {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno >= 60} == {}


def test_top_level_names_are_defined_once_in_the_package():
    """But for main, run and parser, which each command has, and train: hw.train composes what training.train takes."""
    names = Counter()
    for tree in TREES.values():
        names.update(
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name not in ("main", "run", "parser", "train")
        )
    assert {name: count for name, count in names.items() if count > 1} == {}


def test_docstrings_of_functions_start_with_a_verb():
    """A noun phrase would say what a function is instead of what it does."""
    nouns = re.compile(r"(A|An|The|This|That|These|Those|What|Whether|How|Where|When|Which|All|Every|Each|So|Some)\b")
    found = [
        f"{file}:{node.lineno} {node.name}: {ast.get_docstring(node).splitlines()[0]}"
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and nouns.match(ast.get_docstring(node) or "")
    ]
    assert found == []


@pytest.mark.parametrize("file", TREES)
def test_private_names_of_libraries_are_listed(file):
    used = {
        node.attr
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.Attribute)
        and re.match(r"_[a-z]", node.attr)
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.ImportFrom):
            used |= {part for part in node.module.split(".") if re.match(r"_[a-z]", part)}
            used |= {alias.name for alias in node.names if re.match(r"_[a-zA-Z]", alias.name)}
    assert used - PUBLIC == PRIVATE.get(file, set())


def test_every_module_has_its_tests_in_the_mirrored_place():
    modules = [Path(file).relative_to("src/headwise") for file in TREES if file.startswith("src/")]
    tests = {module: ROOT / "tests" / module.parent / f"test_{module.name}" for module in modules}
    assert [str(m) for m, test in tests.items() if m.name != "__init__.py" and not test.is_file()] == []
