"""Keys as they are written on the command line, and names of version 0.1."""

from omegaconf import OmegaConf

from headwise.config import SweepConfig, TrainConfig
from headwise.config_keys import dotted_keys, new_name, schema_fields, with_new_names


def test_new_name_changes_a_key_a_choice_or_both_and_leaves_the_others():
    assert new_name("model.rotary_base", 500.0) == ("model.rope_theta", 500.0)
    assert new_name("model.init", "gpt2") == ("model.init", "scaled_normal")
    assert new_name("model.init", "zero_output") == ("model.init", "zero_output")
    assert new_name("data.rows", "lines") == ("data.join_rows", True)
    assert new_name("model.n_layer", 7) == ("model.n_layer", 7)


def test_with_new_names_renames_keys_of_nested_groups():
    old = {"model": {"tied_head": False, "n_layer": 3}, "data": {"hold_out": "position"}, "seed": 11}
    new = {"model": {"tie_embeddings": False, "n_layer": 3}, "data": {"split_by": "characters"}, "seed": 11}
    assert with_new_names(old) == new
    assert with_new_names(old["model"], "model.") == new["model"]


def test_schema_fields_are_the_dotted_keys_that_are_not_groups():
    for schema in (TrainConfig, SweepConfig):
        keys = [key for key, _ in schema_fields(schema())]
        all_keys = list(dotted_keys(OmegaConf.structured(schema)))
        groups = {key for key in all_keys if any(other.startswith(f"{key}.") for other in all_keys)}
        assert keys == [key for key in all_keys if key not in groups]
