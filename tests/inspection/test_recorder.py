"""The recorder: the same probes at every step, written where they can be read again."""

import csv

import pytest
import torch

from headwise.errors import UserError
from headwise.inspection.heads import head_scores
from headwise.inspection.recorder import PROBE_TOKENS, Recorder, own_probe
from tests.small import small_model, small_tokenizer

TOKENIZER = small_tokenizer()


def recorder(folder, **probes):
    ids = {name: TOKENIZER.encode(text) for name, text in (probes or {"text": "The lions left"}).items()}
    made = Recorder(folder, TOKENIZER, ids, block_size=29)
    made.begin(0)
    return made


def test_a_look_writes_a_sheet_and_a_row_for_every_head(tmp_path):
    model = small_model(vocab_size=TOKENIZER.vocab_size)
    look = recorder(tmp_path).look(model, 500)
    assert look.sheets == {"text": tmp_path / "maps_text_step_000500.png"}
    assert look.sheets["text"].read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "heads.csv").open()))
    assert list(rows[0]) == ["step", "probe", "layer", "head", "entropy", "previous_token", "first_token"]
    assert [(row["layer"], row["head"]) for row in rows] == [(str(i), str(j)) for i in range(2) for j in range(3)]


def test_scores_are_those_of_the_models_own_maps(tmp_path):
    model = small_model(vocab_size=TOKENIZER.vocab_size)
    made = recorder(tmp_path)
    look = made.look(model, 0)
    patterns = made.patterns(model, TOKENIZER.encode("The lions left"))
    assert patterns.shape == (2, 3, 14, 14)
    expected = float(head_scores(patterns)["entropy"][1, 2])
    assert look.scores["heads/entropy/text/L1H2"] == pytest.approx(expected)


def test_looking_changes_neither_weights_nor_mode_nor_random_state(tmp_path):
    model = small_model(vocab_size=TOKENIZER.vocab_size, dropout=0.5)
    model.train()
    made = recorder(tmp_path)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = made.look(model, 0), made.look(model, 1)
    assert first.scores == second.scores  # dropout is off while looking
    assert torch.equal(state, torch.get_rng_state())
    assert model.training


def test_a_resumed_run_forgets_what_it_has_yet_to_do(tmp_path):
    model, made = small_model(vocab_size=TOKENIZER.vocab_size), recorder(tmp_path)
    for step in (0, 500, 1000):
        made.look(model, step)
    made.begin(500)
    assert {row["step"] for row in csv.DictReader((tmp_path / "heads.csv").open())} == {"0", "500"}
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "maps_text_step_000000.png",
        "maps_text_step_000500.png",
    ]


def test_prompts_are_shown_as_far_as_there_is_room_and_it_says_so(tmp_path, capsys):
    made = Recorder(tmp_path, TOKENIZER, {"prompt_1": TOKENIZER.encode("lions " * 30)}, block_size=999)
    assert len(made.probes["prompt_1"]) == PROBE_TOKENS
    assert "prompt_1 is looked at up to its first 64 of 180 tokens" in capsys.readouterr().err


def test_a_prompt_too_short_to_attend_in_is_refused(tmp_path):
    with pytest.raises(UserError, match="too short to attend in"):
        recorder(tmp_path, prompt_1="T")


def test_the_texts_own_probe_starts_at_its_first_line_of_prose():
    text = "tail of a line\n   >>> code = 1\n\nThe kids were scared of the lions,\nso they left.\n"
    assert own_probe(text).startswith("The kids were scared of the lions,\nso they")
    assert own_probe("x = 1\n") == "x = 1\n"
