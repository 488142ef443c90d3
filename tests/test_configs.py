"""Every file in configs/ composes, passes the run's checks and builds what it describes; any two go together."""

import itertools
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from headwise.config import TrainConfig
from headwise.data.token_files import write_token_files
from headwise.launch import CONFIGS, register_schemas
from headwise.model.gpt import GPT
from headwise.training.build import build_callbacks
from headwise.training.optimizers import make_optimizer
from headwise.training.resolve import resolve
from headwise.training.schedules import multiplier
from headwise.training.train import validate_run
from headwise.validation import validate
from tests.small import TEXT, text_splits

CHOICES = [
    f"{group.name}={file.stem}"
    for group in sorted(CONFIGS.iterdir())
    if group.is_dir() and f"- {group.name}: " in (CONFIGS / "train.yaml").read_text()
    for file in sorted(group.glob("*.yaml"))
]
ON_THIS_MACHINE = {"trainer=gpu": torch.cuda.is_available(), "trainer=mps": torch.backends.mps.is_available()}


def composed(*overrides):
    register_schemas()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", ["run_dir=x", *overrides])
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, TrainConfig)
    return typed


def test_every_group_is_in_the_choices():
    assert {"model=gpt2", "model=qwen3", "data=files", "logger=none", "experiment=quickstart"} <= set(CHOICES)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_builds(choice, tmp_path):
    config = composed(choice)
    if not ON_THIS_MACHINE.get(choice, True):
        config.trainer.accelerator = "cpu"
    validate_run(config)
    run = resolve(config, vocab_size=23, train_tokens=1009, n_devices=1, device="cpu")
    make_optimizer(GPT(run.model), run.optimizer)
    assert multiplier(run.schedule.warmup_steps, run.schedule, run.trainer.max_steps) == 1.0
    token_files = write_token_files(text_splits(TEXT, TEXT), "char", 256, tmp_path)
    assert build_callbacks(run, Path("nowhere"), token_files, peak=1.0)


def group_of(choice):
    return choice.split("=")[0]


def rows_with_all_pairs(choices):
    """Yield rows of one choice from each group, so that any two choices of different groups are in a row together."""
    pairs = {pair for pair in itertools.combinations(choices, 2) if group_of(pair[0]) != group_of(pair[1])}
    while pairs:
        row = list(min(pairs))
        for group in sorted({group_of(choice) for choice in choices} - {group_of(choice) for choice in row}):
            members = [choice for choice in choices if group_of(choice) == group]
            new = {one: sum(tuple(sorted((one, other))) in pairs for other in row) for one in members}
            row.append(max(members, key=new.get))
        pairs -= set(itertools.combinations(sorted(row), 2))
        yield sorted(row)


ROWS = list(rows_with_all_pairs(sorted(CHOICES)))


def test_any_two_choices_of_different_groups_are_tested_together():
    tested = {pair for row in ROWS for pair in itertools.combinations(row, 2)}
    assert {tuple(sorted(p)) for p in itertools.combinations(CHOICES, 2) if group_of(p[0]) != group_of(p[1])} == tested


@pytest.mark.parametrize("choices", ROWS, ids=" ".join)
def test_choices_of_different_groups_go_together(choices):
    validate(composed(*choices))


def test_an_experiments_choices_give_way_to_the_command_line():
    config = composed("data=files", "data.path=a.txt", "model=gpt2", "model.n_layer=7", "trainer.max_steps=11")
    assert (config.data.source, config.data.path) == ("files", "a.txt")
    assert (config.model.position, config.model.n_layer, config.trainer.max_steps) == ("learned", 7, 11)
    assert config.model.n_embd == composed().model.n_embd


def test_presets_hold_kinds_and_never_sizes():
    sizes = {"vocab_size", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd", "head_dim", "n_inner", "dropout"}
    for file in (CONFIGS / "model").glob("*.yaml"):
        assert not sizes & set(OmegaConf.load(file))
    assert set(OmegaConf.load(CONFIGS / "model/gpt2.yaml")) == set(OmegaConf.load(CONFIGS / "model/qwen3.yaml"))
