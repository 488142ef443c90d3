"""The runs of a sweep, read from their folders."""

from headwise.sweep.rows import Row, best_first, brief, read_heads, runs_in, short, short_names, varied_in


def test_rows_have_each_runs_state_loss_and_values(sweep):
    rows = runs_in(sweep)
    assert [(row.number, row.state, row.steps, row.seconds) for row in rows[:2]] == [
        (0, "complete", 10, 7.5),
        (1, "pruned", 5, 1.25),
    ]
    assert [(row.number, row.state, row.steps) for row in rows[2:]] == [(2, "failed", 0), (10, "unfinished", 0)]
    assert [row.val_loss for row in rows[:2]] == [1.25, 1.75]  # the complete run's is the whole split's, of its summary
    assert rows[0].val_losses == [(5, 2.0), (10, 1.5)]
    assert varied_in(rows) == ["model.n_layer", "data.path"]
    assert rows[0].values == {"seed": "3", "model.n_layer": "2", "data.path": "b c"}
    assert [row.number for row in best_first(rows)] == [0, 10, 1, 2]


def test_varied_keys_of_a_single_run_are_all_of_its_overrides(sweep):
    assert varied_in(runs_in(sweep)[:1]) == ["seed", "model.n_layer", "data.path"]


def test_head_counts_are_of_the_last_step_on_each_metrics_own_input(sweep):
    row = runs_in(sweep)[0]
    assert row.n_heads == 3
    assert row.head_counts == {"previous_token": 2, "first_token": 1, "duplicate_token": 1, "induction": 1}
    assert row.top_scores == {"previous_token": 0.7, "first_token": 0.31, "duplicate_token": 0.5, "induction": 0.45}


def test_a_run_without_heads_csv_has_no_heads(tmp_path):
    row = Row(0, tmp_path, [], "complete")
    read_heads(row, tmp_path / "absent.csv")
    assert (row.n_heads, row.top_scores, row.attention_page) == (0, {}, None)


def test_a_damaged_summary_affects_its_run_alone(sweep, capsys):
    before = {row.number: row.state for row in runs_in(sweep)}
    (sweep / "0/summary.json").write_text("{bad")
    assert {row.number: row.state for row in runs_in(sweep)} == before | {0: "unfinished"}
    assert "0/summary.json is damaged and was ignored" in capsys.readouterr().err


def test_a_damaged_heads_csv_leaves_the_runs_loss(sweep):
    file = sweep / "0/attention/heads.csv"
    text = file.read_text()
    for good, bad, message in (("10,val,0,0", "ten,val,0,0", "is damaged in line"), ("0.45", "low", "'low'")):
        file.write_text(text.replace(good, bad))
        row = runs_in(sweep)[0]
        assert (row.state, row.val_loss, row.head_counts.get("induction")) == ("complete", 1.25, None)
        assert message in row.why


def test_short_names_stay_distinct():
    assert short_names(["model.n_layer", "seed"]) == {"model.n_layer": "n_layer", "seed": "seed"}
    keys = ["optimizer.kind", "schedule.kind"]
    assert short_names(keys) == dict(zip(keys, keys, strict=True))


def test_brief_values_have_four_digits_or_the_end_of_the_text():
    assert brief("0.00123456") == "0.001235"
    assert brief("1200") == "1200"
    assert brief("/a/very/long/path/to.txt") == "…/long/path/to.txt"
    assert short("optimizer.lr=0.00123456") == "lr=0.001235"
