"""Search spaces: the overrides that they stand for, and one line for each mistake."""

import math

import optuna
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from headwise.errors import UserError
from headwise.launch import CONFIGS, register_schemas
from headwise.model.gpt import GPT
from headwise.sweep.space import combinations, grid, read_space
from headwise.validation import validate

PREDEFINED = sorted(file.stem for file in (CONFIGS / "sweep").glob("*.yaml"))


def trial(**params):
    return optuna.trial.FixedTrial(params)


def test_space_of_choices_and_ranges_becomes_overrides():
    space = read_space(
        {
            "optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "model.n_layer": {"low": 2, "high": 9, "step": 3},
            "model.bias": [True, False],
            "model.n_kv_head": [None, 1],
            "data.path": ["it's a \\ text.txt"],
        }
    )
    params = {"optimizer.lr": 0.003, "model.n_layer": 5, "model.bias": False, "model.n_kv_head": None}
    fixed = trial(**params, **{"data.path": "it's a \\ text.txt"})
    overrides = [override for one in space for override in one.suggest(fixed)]
    assert overrides[:4] == ["optimizer.lr=0.003", "model.n_layer=5", "model.bias=false", "model.n_kv_head=null"]
    register_schemas()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", ["run_dir=x", "data=files", *overrides])
    assert (config.optimizer.lr, config.model.bias, config.data.path) == (0.003, False, "it's a \\ text.txt")


def test_choice_that_is_a_mapping_sets_several_keys():
    (shape,) = read_space(
        {"shape": [{"model.n_layer": 1, "model.n_embd": 64}, {"model.n_layer": 4, "model.n_embd": 32}]}
    )
    assert shape.suggest(trial(shape="n_layer=4 n_embd=32")) == ["model.n_layer=4", "model.n_embd=32"]


def test_grid_is_every_combination_and_needs_steps():
    space = read_space({"seed": [3, 5], "model.dropout": {"low": 0.1, "high": 0.35, "step": 0.1}})
    assert combinations(space) == 6
    assert [point["seed"] for point in grid(space)] == [3, 3, 3, 5, 5, 5]
    assert [point["model.dropout"] for point in grid(space)][:3] == pytest.approx([0.1, 0.2, 0.3])
    endless = read_space({"optimizer.lr": {"low": 0.1, "high": 0.2}})
    assert combinations(endless) is None
    with pytest.raises(UserError, match=r"optimizer\.lr: sweep\.sampler=grid needs a list of choices, or a step"):
        grid(endless)


def test_range_ends_with_the_last_of_its_steps():
    space = read_space(
        {"model.dropout": {"low": 0.1, "high": 0.35, "step": 0.1}, "seed": {"low": 1, "high": 9, "step": 3}}
    )
    assert [one.ends() for one in space] == [[["model.dropout=0.1"], ["model.dropout=0.3"]], [["seed=1"], ["seed=7"]]]
    assert combinations(space) == 9
    whole_numbers = read_space({"model.n_layer": {"low": 2, "high": 5}})
    assert [point["model.n_layer"] for point in grid(whole_numbers)] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "sweep.space is empty"),
        ({"optimizer.lr": {"low": 2, "high": 1}}, "`low <= high` must hold, but got (low=2.0, high=1.0)"),
        (
            {"optimizer.lr": {"lo": 2, "high": 1}},
            "lr: lo is not a key of the configuration; did you mean low?",
        ),
        ({"optimizer.lr": {"low": 2}}, "optimizer.lr: high must be a number; give a list of choices, or {low: ..., hi"),
        ({"optimizer.lr": {"low": True, "high": 2}}, "optimizer.lr: low must be a number; give a list of choices, or"),
        ({"optimizer.lr": {"low": 1, "high": math.inf}}, "low, high and step must be finite"),
        ({"optimizer.lr": {"low": 0, "high": 2, "log": True}}, "`low > 0` must hold for `log=True`"),
        ({"optimizer.lr": {"low": 1, "high": 2, "log": True, "step": 1}}, "`step` is not supported when `log` is true"),
        ({"optimizer.lr": {"low": 1, "high": 2, "step": 0}}, "`step > 0` must hold, but got step=0"),
        ({"optimizer.lr": {"low": 1, "high": 2, "log": "maybe"}}, "optimizer.lr: log must be true or false"),
        ({"model.n_layer": {"low": 1, "high": 2.5}}, "model.n_layer takes whole numbers"),
        ({"model.n_layer": 3}, "model.n_layer=3 must be a list of choices, or {low: ..., high: ...}"),
        ({"model.n_layer": []}, "model.n_layer=[] holds no choices"),
        ({"model.n_layer": [1, 1]}, "holds a choice twice"),
        ({"model.n_layer": [[1], [2]]}, "model.n_layer=[1] must be a plain value"),
        ({"run_dir": ["a", "b"]}, "run_dir cannot vary"),
        ({"seed": [1], "both": [{"seed": 2}]}, "seed is varied twice"),
        ({"both": [{}]}, "{} sets no key"),
    ],
)
def test_mistake_in_a_space_is_one_line_with_its_key(space, message):
    with pytest.raises(UserError) as error:
        read_space(space)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in PREDEFINED if name != "own"])
def test_predefined_space_has_only_models_that_can_be_trained(name):
    register_schemas()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        sweep = OmegaConf.to_object(compose("sweep", [f"sweep={name}", "run_dir=x"])).sweep
        space = read_space(sweep.space)
        for end in (end for one in space for end in one.ends()):
            validate(OmegaConf.to_object(compose("train", ["run_dir=x", *end])))


def test_predefined_shapes_have_the_same_number_of_parameters():
    register_schemas()
    sizes = []
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        sweep = OmegaConf.to_object(compose("sweep", ["sweep=shape", "run_dir=x"])).sweep
        for end in read_space(sweep.space)[0].ends():
            config = OmegaConf.to_object(compose("train", ["run_dir=x", *end])).model
            config.vocab_size = 103
            sizes.append(GPT(config).n_parameters())
    assert max(sizes) / min(sizes) < 1.03, sizes


def test_sweep_yaml_is_train_yaml_and_the_group_sweep():
    register_schemas()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for overrides in ([], ["model=gpt2", "experiment=induction"]):
            one, other = (
                OmegaConf.to_container(compose(name, ["run_dir=x", *overrides])) for name in ("train", "sweep")
            )
            del other["sweep"]
            assert one == other
