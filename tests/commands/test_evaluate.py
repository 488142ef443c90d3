"""headwise evaluate: the loss of a trained run on a text."""

import json

import pytest

from tests.small import TEXT, script_here, train


def test_evaluate_gives_the_loss_of_the_summary_and_of_any_other_text(run):
    cwd, folder, _ = run
    summary = json.loads((folder / "summary.json").read_text())
    printed = json.loads(script_here("evaluate", "--checkpoint", folder, "--json", cwd=cwd).stdout)
    assert printed["loss"] == pytest.approx(summary["val_loss"], abs=1e-5)
    assert printed["bits_per_byte"] == pytest.approx(summary["val_bits_per_byte"], abs=1e-5)
    (cwd / "other.txt").write_text("import this\n" * 30)
    plain = script_here("evaluate", "--checkpoint", folder, "--data", "other.txt", cwd=cwd).stdout
    assert plain.splitlines()[-1] == "tokens         360"
    for wrong, message in (
        (["--data", "absent.txt"], "--data=absent.txt names no file"),
        (["--data", "other.txt", "--split", "val"], "--split val is a part of the text that the model trained on"),
    ):
        refused = script_here("evaluate", "--checkpoint", folder, *wrong, cwd=cwd, ok=False)
        assert refused.returncode == 2
        assert message in refused.stderr.splitlines()[-1]


def test_evaluate_reports_that_the_training_text_has_changed(tmp_path):
    (tmp_path / "my.txt").write_text(TEXT)
    train(tmp_path, "out", "data=files", "data.path=my.txt", "trainer.max_steps=1")
    changed = "has changed since"
    assert changed not in script_here("evaluate", "--checkpoint", "out", cwd=tmp_path).stderr
    (tmp_path / "my.txt").write_text(TEXT[:-1] + "!")
    assert changed in script_here("evaluate", "--checkpoint", "out", cwd=tmp_path, ok=False).stderr
    (tmp_path / "my.txt").unlink()
    gone = script_here("evaluate", "--checkpoint", "out", cwd=tmp_path, ok=False)
    assert gone.returncode == 2
    assert f"data.path=my.txt names no file in {tmp_path}" in gone.stderr
