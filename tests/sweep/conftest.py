"""A folder of a sweep with a run in each state, made without training."""

import csv
import json

import pytest
import yaml

from headwise.inspection.recorder import heads_columns
from headwise.sweep.multirun import note_end
from headwise.training.metrics import METRICS_COLUMNS
from tests.sweep.small import NASTY


def make_run(folder, number, overrides, losses, summary=None, heads=()):
    """Write the files of a run."""
    run = folder / str(number)
    (run / "attention").mkdir(parents=True)
    (run / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    with (run / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, METRICS_COLUMNS, restval="")
        writer.writeheader()
        writer.writerows({"step": step, "seconds": step / 4, "val_loss": loss} for step, loss in losses)
    if summary:
        (run / "summary.json").write_text(json.dumps(summary))
    if heads:
        (run / "attention/view.html").write_text("a page")
        with (run / "attention/heads.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, heads_columns(), restval="")
            writer.writeheader()
            writer.writerows(heads)


def head(step, model_input, layer, number, **scores):
    return {"step": step, "input": model_input, "layer": layer, "head": number} | scores


@pytest.fixture
def sweep(tmp_path):
    """Four runs (complete, pruned, failed, interrupted), an empty numbered folder and one without a number."""
    folder = tmp_path / "a sweep & more"
    heads = [
        head(5, "val", 0, 0, previous_token=0.9),
        head(5, "repeats", 0, 0, induction=0.9),
        head(10, "text", 0, 0, previous_token=0.99),
        head(10, "val", 0, 0, previous_token=0.7, first_token=0.1),
        head(10, "val", 0, 1, previous_token=0.51, first_token=0.2),
        head(10, "val", 1, 0, previous_token=0.5, first_token=0.31),
        head(10, "repeats", 0, 0, induction=0.2, duplicate_token=0.3),
        head(10, "repeats", 0, 1, induction=0.1, duplicate_token=0.5),
        head(10, "repeats", 1, 0, induction=0.45, duplicate_token=0.1),
    ]
    common = ["run_dir=x", "seed=3"]
    done = {"val_loss": 1.25, "steps": 10, "train_seconds": 7.5}
    make_run(folder, 0, [*common, "model.n_layer=2", "data.path='b c'"], [(5, 2.0), (10, 1.5)], done, heads)
    make_run(folder, 1, [*common, "model.n_layer=4", f"data.path={NASTY}"], [(5, 1.75)])
    note_end(folder / "1", [*common, "model.n_layer=4", f"data.path={NASTY}"], "pruned", "at step 5 of 10")
    note_end(folder / "2", [*common, "model.n_layer=4", "data.path=d", "resume=auto"], "failed", NASTY, 1)
    make_run(folder, 10, [*common, "model.n_layer=2", "data.path=e"], [])
    (folder / "11").mkdir()
    (folder / "notes").mkdir()
    return folder
