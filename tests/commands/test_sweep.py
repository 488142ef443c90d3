"""headwise sweep: what it refuses, and how it ends if every trial fails. The search itself is in tests/sweep."""

from tests.sweep.small import sweep_here

LR = "sweep.space={optimizer.lr: {low: 1e-3, high: 1e-1, log: true}}"
OWN = ["sweep=own", LR]


def test_sweep_whose_trials_all_fail_exits_with_1_and_the_reason(tmp_path):
    wrong = ["sweep=own", "sweep.space={optimizer.lr: [1e29, 1e30]}"]
    result = sweep_here(tmp_path, "out", *wrong, ok=False)
    assert result.returncode == 1
    assert "error: all 2 trials failed; trial 0: the training diverged by step" in result.stderr
    assert "trial 1: failed" in result.stderr


def test_sweep_in_the_folder_of_a_grid_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/multirun.yaml").write_text("content")
    result = sweep_here(tmp_path, "out", *OWN, ok=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: run_dir=out holds the runs of headwise train -m; give another run_dir\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["multirun.yaml"]


def test_wrong_space_leaves_no_files(tmp_path):
    result = sweep_here(tmp_path, "out", "sweep=own", "sweep.space={optimizer.lrr: [1, 2]}", ok=False)
    assert result.returncode == 2
    assert result.stderr == "error: optimizer.lrr is not a key of the configuration; did you mean optimizer.lr?\n"
    assert not list(tmp_path.iterdir())


def test_trial_on_several_devices_is_refused(tmp_path):
    several = ["trainer=cpu", "trainer.devices=2", "trainer.strategy=ddp"]
    result = sweep_here(tmp_path, "out", *OWN, *several, ok=False)
    assert result.returncode == 2
    assert result.stderr == "error: trainer.devices=2: a trial of a sweep trains on one device\n"
