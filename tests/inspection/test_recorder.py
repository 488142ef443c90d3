"""The recorder: the same inputs at every step, written where they can be read again."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from headwise.errors import UserError
from headwise.inspection.effects import EFFECTS, repeat_losses
from headwise.inspection.head_scores import PATTERN_METRICS, REPEATS_METRICS, pattern_scores
from headwise.inspection.hooks import run_and_capture
from headwise.inspection.inputs import held_out_input, ordinary_tokens, prompt_input, repeats_inputs
from headwise.inspection.page import page as viewer
from headwise.inspection.recorder import Recorder, heads_columns
from tests.small import randomize, small_model, small_tokenizer

TOKENIZER = small_tokenizer()
HELD_OUT = np.array(TOKENIZER.encode("so they left right away. The kids were scared of the lions. "))
METRICS = [*PATTERN_METRICS, *REPEATS_METRICS]  # of every snapshot
LOSSES = {"train": [(1, 3.0), (500, 2.0)], "val": [(500, 2.1)]}


def model(seed=1, **changes):
    made = randomize(small_model(vocab_size=TOKENIZER.vocab_size, **changes))
    for p in made.parameters():
        p.data += seed * 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
    return made


def recorder(folder, step=0):
    inputs = [
        prompt_input("text", TOKENIZER.encode("The lions left"), TOKENIZER, 29),
        *repeats_inputs(ordinary_tokens(TOKENIZER), 29),
        held_out_input(HELD_OUT, 29),
    ]
    made = Recorder(folder, TOKENIZER, inputs, "a run", lambda: LOSSES)
    made.begin(step)
    return made


def rows(folder):
    return list(csv.DictReader((folder / "heads.csv").open()))


def test_record_writes_attention_grids_metric_grids_the_page_and_a_row_for_every_head(tmp_path):
    snapshot = recorder(tmp_path).record(model(), 500)
    attention_grids = {f"attn/maps/{name}": tmp_path / f"maps_{name}_step_000500.png" for name in ("text", "repeats")}
    metric_grids = {f"heads/{name}": tmp_path / f"grid_{name}.png" for name in METRICS}
    assert snapshot.pictures == attention_grids | metric_grids
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in snapshot.pictures.values())
    assert "a run" in (tmp_path / "view.html").read_text()
    assert list(rows(tmp_path)[0]) == heads_columns()
    keys = [(row["input"], row["layer"], row["head"]) for row in rows(tmp_path)]
    assert keys == [(p, str(i), str(j)) for p in ("text", "repeats", "val") for i in range(2) for j in range(3)]


def test_heads_csv_has_the_scores_of_the_models_maps_and_empty_cells_elsewhere(tmp_path):
    made = recorder(tmp_path)
    made.record(model(), 0)
    text, repeats, val = (
        next(row for row in rows(tmp_path) if (row["input"], row["layer"], row["head"]) == (model_input.name, "1", "2"))
        for model_input in made.inputs
    )
    ids = made.inputs[1].ids
    pattern = run_and_capture(model(), ids)[0][1].pattern
    for name, values in pattern_scores(pattern, ids).items():
        assert float(repeats[name]) == pytest.approx(float(values[:, 2].mean()))
    assert text["induction"] == val["induction"] == text["duplicate_token"] == ""
    assert float(val["entropy"]) != float(text["entropy"]) > 0
    assert all(row[name] == "" for row in (text, repeats, val) for name in EFFECTS)


def test_chart_values_are_the_maximum_the_mean_and_the_count_above_the_threshold(tmp_path):
    made = recorder(tmp_path)
    snapshot = made.record(model(), 0)
    scores = np.array([float(row["first_token"]) for row in rows(tmp_path) if row["input"] == "val"])
    assert snapshot.chart_values["heads/first_token/max"] == pytest.approx(scores.max())
    assert snapshot.chart_values["heads/first_token/mean"] == pytest.approx(scores.mean())
    assert snapshot.chart_values["heads/first_token/count"] == (scores > 0.3).sum()
    first, again = repeat_losses(model()(made.inputs[1].ids), made.inputs[1].ids, made.inputs[1].period)
    assert (snapshot.chart_values["heads/repeated_loss"], snapshot.chart_values["heads/induction_loss"]) == (
        again,
        again - first,
    )
    (row,) = csv.DictReader((tmp_path / "repeats.csv").open())
    assert row == {"step": "0", "first_loss": str(first), "repeated_loss": str(again)}
    assert "heads/entropy/count" not in snapshot.chart_values


def test_finish_adds_effects_and_head_timelines(tmp_path):
    made = recorder(tmp_path)
    made.record(model(1), 0)
    made.record(model(2), 500)
    last = made.finish(model(2), 500)  # in place of the snapshot of the same step
    assert [row["step"] for row in rows(tmp_path)] == ["0"] * 18 + ["500"] * 18
    val = [row for row in rows(tmp_path) if (row["step"], row["input"]) == ("500", "val")]
    expected = EFFECTS["mean_ablation"](model(2), made.inputs[2].ids)
    assert [float(row["mean_ablation"]) for row in val] == pytest.approx(expected.flatten().tolist())
    timelines = {name for name in last.pictures if name.startswith("heads/timeline/")}
    assert timelines == {
        f"heads/timeline/{name}" for name in ("previous_token", "first_token", "duplicate_token", "induction")
    }
    assert all(last.pictures[name].is_file() for name in timelines)
    assert {"heads/ov_copying", "heads/importance", "heads/mean_ablation", "heads/logit_attribution"} <= set(
        last.pictures
    )


def test_recorder_pictures_have_the_same_size_at_every_step(tmp_path):
    made = recorder(tmp_path)
    first, second = (made.record(model(seed), step) for seed, step in ((1, 0), (9, 1)))
    sizes = {name: Image.open(file).size for name, file in first.pictures.items()}
    assert {name: Image.open(file).size for name, file in second.pictures.items()} == sizes


def test_recorder_changes_neither_weights_nor_mode_nor_random_state(tmp_path):
    made, recorded = recorder(tmp_path), model(dropout=0.5)
    recorded.train()
    state = torch.get_rng_state()
    first, second = made.record(recorded, 0), made.finish(recorded, 1)
    assert {name: second.chart_values[name] for name in first.chart_values} == first.chart_values  # dropout is off
    assert torch.equal(state, torch.get_rng_state())
    assert recorded.training
    assert all(p.grad is None for p in recorded.parameters())


def test_recorder_page_has_every_drawn_step_also_after_a_resume(tmp_path, monkeypatch):
    views = []
    monkeypatch.setattr("headwise.inspection.page.page.render", lambda view: views.append(view) or "page")
    made = recorder(tmp_path)
    for seed, step in ((1, 0), (2, 500), (3, 1000)):
        made.record(model(seed), step)
    made.record(model(4), 1100, pictures=False)
    again = recorder(tmp_path, step=500)
    assert {row["step"] for row in rows(tmp_path)} == {"0", "500"}
    assert sorted(file.name for file in tmp_path.glob("maps_text_*.png")) == [
        "maps_text_step_000000.png",
        "maps_text_step_000500.png",
    ]
    again.record(model(3), 1000)
    before, after = views[2], views[-1]
    assert before.steps == after.steps == [0, 500, 1000]
    assert [prompt.name for prompt in after.prompts] == ["text", "repeats"]
    for old, new in zip(before.prompts, after.prompts, strict=True):
        assert np.array_equal(old.patterns, new.patterns)
        assert np.array_equal(old.value_norms, new.value_norms)
        assert set(new.scores) == set(METRICS)
        for name in METRICS:
            assert np.allclose(old.scores[name], new.scores[name])
    pattern = run_and_capture(model(2), made.inputs[0].ids)[0][1].pattern[0, 2].numpy()
    assert np.array_equal(after.prompts[0].patterns[1, 1, 2], viewer.compand(pattern))
    assert np.array_equal(
        after.prompts[0].maps[1].pattern[0, 2], run_and_capture(model(3), made.inputs[0].ids)[0][1].pattern[0, 2]
    )
    assert after.losses == LOSSES


def test_recorder_names_a_damaged_step_before_training_continues(tmp_path):
    recorder(tmp_path).record(model(), 0)
    file = tmp_path / "steps/step_000000.npz"
    for damaged in (b"", b"PK no zip", file.read_bytes()[:200]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"step_000000\.npz is damaged"):
            recorder(tmp_path, step=0)
