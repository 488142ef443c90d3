"""import headwise: every public name, imported at its first use."""

import ast
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import headwise as hw
from tests.small import TINY

QUIET = [*TINY, "logger=none", "threads=1", "callbacks.attention.every_n_steps=null", "trainer.max_steps=2"]


def test_importing_headwise_imports_neither_torch_nor_any_module_of_its_own():
    code = "import sys, headwise; print([name for name in sys.modules if name.startswith(('torch', 'headwise.'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", [*hw.MODULES])
def test_public_names_are_those_of_their_modules(name):
    assert getattr(hw, name).__module__ == hw.MODULES[name]
    assert getattr(hw, name).__name__ == name
    assert name in dir(hw)


def test_type_checkers_see_the_public_names_at_their_modules():
    tree = ast.parse(Path(hw.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {node.names[0].asname: node.module for node in imported} == hw.MODULES
    assert (Path(hw.__file__).parent / "py.typed").is_file()


def test_version_is_that_of_the_package():
    assert hw.__version__ == version("headwise")


def test_unknown_public_names_raise_attribute_error():
    with pytest.raises(AttributeError, match="module 'headwise' has no attribute 'laod'"):
        hw.laod  # noqa: B018


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The summary of hw.train, the folder of its run, and the checkpoint of the run."""
    folder = tmp_path_factory.mktemp("api") / "run"
    summary = hw.train(*QUIET, f"run_dir={folder}", f"data.cache_dir={folder.parent}/cache")
    return summary, folder, hw.load(folder)


def test_train_returns_the_summary_that_it_writes(trained):
    summary, folder, checkpoint = trained
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 2
    assert checkpoint.path == folder / "checkpoints/best.ckpt"
    assert checkpoint.config.n_layer == 2


def test_train_raises_user_error_for_wrong_overrides(tmp_path):
    for wrong, message in (("model.n_lyer=3", "did you mean model.n_layer"), ("model.n_head=0", "must be at least 1")):
        with pytest.raises(hw.UserError, match=message):
            hw.train(wrong, f"run_dir={tmp_path}/run")
    assert list(tmp_path.iterdir()) == []


def test_generate_evaluate_head_scores_and_show_take_a_loaded_checkpoint(trained):
    _, _, checkpoint = trained
    text = hw.generate(checkpoint, "def ", 7, temperature=0)
    assert len(text) == 7
    result = hw.evaluate(checkpoint, "The lions left.")
    assert result["tokens"] == len("The lions left.")
    rows = hw.head_scores(checkpoint, "The lions left.")
    assert [(row["layer"], row["head"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert "The" in hw.show("The lions left.", checkpoint)._repr_html_()


def test_capture_and_edit_heads_work_on_a_loaded_model(trained):
    _, _, checkpoint = trained
    ids = torch.tensor([checkpoint.tokenizer.encode("The lions left.")])
    with torch.no_grad(), hw.capture(checkpoint.model) as maps:
        logits = checkpoint.model(ids)
    assert maps[1].pattern.shape == (1, 2, 15, 15)
    with torch.no_grad(), hw.edit_heads(checkpoint.model, lambda layer, z: z * 0):
        assert not torch.equal(checkpoint.model(ids), logits)
