"""A module imports only modules that come before it in ORDER; the model needs torch alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ORDER = """
errors distributed.processes console files config validation tokenizer
model.layers model.position model.kv_cache model.attention model.gpt
checkpoint huggingface
data.builtin_texts data.readers data.text_cache data.sources data.hub data.encoding data.sampler data.token_files
data.datamodule
evaluation
generation.fast generation.sampling generation.generate generation.chat
inspection.hooks inspection.head_scores inspection.effects inspection.inputs inspection.plots
inspection.page.page inspection.recorder inspection.walkthrough inspection.snapshot inspection.tables
distributed.strategies
training.schedules training.optimizers training.lightning_module training.loggers training.callbacks training.metrics
training.resolve training.summary distributed.estimate training.build training.train
config_errors sweep.multirun launch sweep.rows sweep.report sweep.space sweep.study sweep.search
commands.train commands.prepare commands.generate commands.evaluate commands.attention commands.export commands.sweep
commands.main
""".split()  # noqa: SIM905
DEFERRED = {  # (module, imported later inside a function): why
    ("checkpoint", "huggingface"): "needed for a Hugging Face folder only",
    ("data.sources", "data.hub"): "needed for data=hub and data.url only",
}
ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "src/headwise").rglob("*.py"), *(ROOT / "scripts").glob("*.py")])


def module_of(file):
    return ".".join(file.relative_to(ROOT / "src/headwise").with_suffix("").parts)


def imports(file):
    """Every module that the file imports anywhere, as dotted names."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = [file for file in FILES if file.name != "__init__.py" and file.parent.name != "scripts"]


def test_order_lists_every_module_once():
    assert sorted(ORDER) == sorted(module_of(file) for file in MODULES)


@pytest.mark.parametrize("file", MODULES, ids=module_of)
def test_imports_point_to_modules_before(file):
    mine = module_of(file)
    before = ORDER[: ORDER.index(mine)]
    ours = {name.removeprefix("headwise.") for name in imports(file) if name.startswith("headwise.")}
    imported = {next((m for m in ORDER if f"{name}.".startswith(f"{m}.")), name) for name in ours}
    assert {m for m in imported if m not in before and (mine, m) not in DEFERRED} == set()
    if mine.startswith("model."):
        outside = {name.split(".")[0] for name in imports(file)} - set(sys.stdlib_module_names)
        assert outside <= {"torch", "headwise"}


PACKAGES = [file for file in FILES if file.name == "__init__.py" and file.parent.name != "headwise"]


@pytest.mark.parametrize("file", PACKAGES, ids=lambda file: file.parent.name)
def test_packages_import_nothing(file):
    """But for headwise itself, whose public names are tested in test_public_api."""
    assert not list(imports(file))


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("headwise.launch", "torch"),
        ("headwise.commands.train", "torch"),
        ("headwise.commands.generate", "torch"),
        ("headwise.commands.main", "hydra"),
        ("headwise.checkpoint", "lightning"),
        ("headwise.evaluation", "lightning"),
        ("headwise.generation.generate", "hydra"),
        ("headwise.generation.generate", "matplotlib"),
    ],
)
def test_light_modules_stay_light(module, heavy):
    code = f"import sys, {module}; sys.exit('{heavy}' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
