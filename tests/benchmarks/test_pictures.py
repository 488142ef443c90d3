"""The script that redraws the pictures of the documents."""

import subprocess
import sys

import pytest
from PIL import Image

from tests.small import ROOT, own_environment

TINY = ["trainer.max_steps=2", "trainer.val_check_interval=2", "data.val_tokens=256", "threads=1", "compile=false"]


@pytest.mark.slow
def test_pictures_of_the_documents_are_redrawn(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/pictures.py", "--output", tmp_path, *TINY]
    subprocess.run(command, check=True, env=own_environment())
    assert {file.name for file in tmp_path.iterdir()} == {
        "maps.png",
        "previous_token.png",
        "induction.png",
        "example.png",
    }
    for name in ("maps.png", "example.png"):  # drawn from other weights, but of the same size
        assert Image.open(tmp_path / name).size == Image.open(ROOT / "docs" / name).size
