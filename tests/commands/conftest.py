"""A tiny run with everything on, trained once for all tests of commands."""

import pytest

from tests.small import STEPS, script


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    """Train ten steps with everything on; return the working folder, the run's folder and the finished process."""
    cwd = tmp_path_factory.mktemp("run")
    wanted = ["run_dir=out", "trainer.max_steps=10", "callbacks.attention.every_n_steps=5"]
    wanted += ["callbacks.samples.every_n_steps=5", "callbacks.samples.tokens=20", "data.global_batch_size=10"]
    result = script("train", *STEPS, *wanted, 'callbacks.attention.prompts=["The lions","so they left"]', cwd=cwd)
    return cwd, cwd / "out", result
