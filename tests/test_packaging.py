"""The wheel: what it contains, and the command that it installs, in an environment and a folder without a checkout."""

import csv
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from setuptools import find_packages

from tests.small import ROOT, TINY

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
INSTALL = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
STEPS = [*TINY, "threads=1", "trainer.max_steps=5", "logger=csv", "callbacks.attention.every_n_steps=5"]


def test_pyproject_lists_every_package():
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    assert listed == {*find_packages(str(ROOT / "src")), "headwise.configs"}


def pip(*arguments):
    """Run pip without a network, with the build tools that are installed here."""
    subprocess.run([sys.executable, "-m", "pip", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built from a copy, since setuptools writes to the folder that it builds from."""
    copy, built = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("src", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    pip("wheel", *INSTALL, "--wheel-dir", built, copy)
    (file,) = built.iterdir()
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of executables of a fresh environment with the wheel, which borrows this one's other packages."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    executables = Path(sysconfig.get_path("scripts", "venv", {"base": str(folder), "platbase": str(folder)}))
    pip("--python", executables / "python", "install", *INSTALL, wheel)
    return executables


def run(command, *arguments, cwd):
    """Run a command of the environment in a folder; its standard output. No path of this checkout is left to it."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "WANDB_SERVICE")}
    done = subprocess.run(
        [command, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_wheel_contains_configs_page_and_type_marker(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"headwise/configs/{file.relative_to(ROOT / 'configs')}" for file in (ROOT / "configs").rglob("*.yaml")}
    assert {name for name in names if name.startswith("headwise/configs/")} == configs
    package = {str(file.relative_to(ROOT / "src")) for file in (ROOT / "src/headwise").rglob("*") if file.is_file()}
    assert {name for name in package if "__pycache__" not in name} <= names
    assert "headwise/py.typed" in names


@pytest.mark.slow
def test_installed_command_trains_generates_and_evaluates_in_any_folder(installed, tmp_path):
    headwise = installed / "headwise"
    assert run(headwise, "--version", cwd=tmp_path) == f"headwise {PROJECT['project']['version']}\n"
    assert "gpt2, qwen3" in run(headwise, "train", "--help", cwd=tmp_path)
    assert "validation loss" in run(headwise, "train", *STEPS, cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "runs"}
    (summary,) = tmp_path.glob("runs/quickstart/*/summary.json")
    assert json.loads(summary.read_text())["git_commit"] is None
    assert (summary.parent / "attention/view.html").stat().st_size > 50_000
    assert run(headwise, "generate", "--prompt", "def ", "--max-new-tokens", 5, cwd=tmp_path).startswith("def ")
    assert "bits per byte" in run(headwise, "evaluate", cwd=tmp_path)
    run(headwise, "attention", "--prompt", "def x", "--output", "view.html", cwd=tmp_path)


@pytest.mark.slow
def test_installed_command_starts_the_processes_of_two_devices(installed, tmp_path):
    """Lightning starts the second with the command line of the first."""
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "run_dir=two", "--config-dir", "mine"]
    (tmp_path / "mine/experiment").mkdir(parents=True)
    (tmp_path / "mine/experiment/small.yaml").write_text("# @package _global_\nseed: 3\n")
    run(installed / "headwise", "train", *STEPS, "experiment=small", *two, cwd=tmp_path)
    with (tmp_path / "two/metrics.csv").open() as file:
        assert int(list(csv.DictReader(file))[-1]["tokens"]) == 5 * 2 * 5 * 24


@pytest.mark.slow
def test_installed_package_is_imported_without_the_checkout(installed, tmp_path):
    code = "import headwise, headwise.launch as launch; print(headwise.__file__, launch.CONFIGS)"
    file, configs = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert Path(configs) == Path(file).parent / "configs"
    assert not Path(file).is_relative_to(ROOT)
