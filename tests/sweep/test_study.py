"""The study that processes share: each trial belongs to one process until it is done or its process dies."""

import optuna
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from headwise.errors import UserError
from headwise.launch import CONFIGS, register_schemas
from headwise.sweep.space import grid, read_space
from headwise.sweep.study import open_study

LR = "sweep.space={optimizer.lr: {low: 1e-3, high: 1e-1, log: true}}"


def open_as_a_process(folder, *overrides, space=LR):
    """The shared study as another process sees it."""
    register_schemas()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = OmegaConf.to_object(compose("sweep", ["run_dir=out", "sweep=own", space, *overrides]))
    dimensions = read_space(config.sweep.space)
    points = grid(dimensions) if config.sweep.sampler == "grid" else None
    return open_study(folder / "journal.log", config, dimensions, points)


def test_trial_belongs_to_one_process_until_that_dies(tmp_path):
    """The system releases the lock of a process that dies, and the journal does not say so."""
    one, other = (open_as_a_process(tmp_path, "sweep.n_trials=3") for _ in range(2))
    first, second, third = one.claim(), other.claim(), one.claim()
    assert [claimed.trial.number for claimed in (first, second, third)] == [0, 1, 2]
    assert len({claimed.overrides[0] for claimed in (first, second, third)}) == 3
    assert other.claim() is None  # all three are being trained
    first.lock.release()
    again = other.claim()
    assert (again.trial.number, again.overrides) == (0, first.overrides)
    assert again.trial.user_attrs["starts"] == 2
    other.study.tell(again.trial, 1.0)
    again.lock.release()
    assert one.claim() is None  # it is done
    with (tmp_path / "journal.log").open("a") as journal:
        journal.write('{"op_code": 5, "cut sho')
    third.lock.release()
    assert open_as_a_process(tmp_path, "sweep.n_trials=3").claim().trial.number == 2  # despite the incomplete line


def test_running_trial_can_be_reopened(tmp_path):
    """Optuna's private FrozenTrial._trial_id, and its constructor Trial(study, id), still do what study.py needs."""
    study = optuna.create_study()
    trial = study.ask()
    x = trial.suggest_float("x", 0, 1)
    trial.report(2.0, 5)
    frozen = study.get_trials(deepcopy=False)[0]
    again = optuna.trial.Trial(study, frozen._trial_id)
    assert (again.number, again.suggest_float("x", 0, 1)) == (0, x)
    again.report(1.0, 7)
    study.tell(again, 1.0)
    assert (study.trials[0].value, study.trials[0].intermediate_values) == (1.0, {5: 2.0, 7: 1.0})


def test_grid_whose_points_were_not_all_enqueued_by_a_killed_process_is_complete(tmp_path):
    def open_grid(*overrides):
        return open_as_a_process(tmp_path, "sweep.sampler=grid", *overrides, space="sweep.space={seed: [3, 5, 7]}")

    open_grid()
    journal = tmp_path / "journal.log"
    lines = journal.read_text().splitlines(keepends=True)
    waiting = [i for i, line in enumerate(lines) if "fixed_params" in line]
    assert len(waiting) == 3
    journal.write_text("".join(lines[: waiting[1] - 1]))  # killed before it enqueued the second point
    claims = [open_grid().claim() for _ in range(3)]
    assert [claimed.overrides for claimed in claims] == [["seed=3"], ["seed=5"], ["seed=7"]]
    assert open_grid().claim() is None


def test_grid_of_fewer_trials_than_combinations_can_be_resumed_with_more(tmp_path):
    space = "sweep.space={seed: [3, 5, 7]}"
    for n_trials, expected in ((2, ["seed=3", "seed=5"]), (9, ["seed=7"])):
        shared = open_as_a_process(tmp_path, "sweep.sampler=grid", f"sweep.n_trials={n_trials}", space=space)
        for override in expected:
            claimed = shared.claim()
            assert claimed.overrides == [override]
            shared.study.tell(claimed.trial, 1.0)
        assert shared.claim() is None


@pytest.mark.parametrize("text", ["a poem\n", "a poem", '{"op_code":0,\n{}\n'])
def test_file_that_is_no_journal_is_refused_and_stays(tmp_path, text):
    (tmp_path / "journal.log").write_text(text)
    with pytest.raises(UserError, match="cannot be read as the journal of a sweep; move it away"):
        open_as_a_process(tmp_path)
    assert (tmp_path / "journal.log").read_text() == text


def test_sweep_may_be_resumed_with_other_trials_and_threads_but_not_another_space(tmp_path):
    open_as_a_process(tmp_path, "sweep.n_trials=3")
    open_as_a_process(tmp_path, "sweep.n_trials=5", "threads=2", "logger=csv", "sweep.n_jobs=2")
    with pytest.raises(UserError, match=r"sweep\.seed=1 differs from 0: run_dir=out holds another sweep"):
        open_as_a_process(tmp_path, "sweep.seed=1")
