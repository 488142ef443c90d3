"""Parts of a user's own: registered by files, used everywhere, and never imported because a checkpoint names them."""

import csv
import json
import math
import re
import sys
from contextlib import chdir

import numpy as np
import pytest
import torch
from PIL import Image

import headwise as hw
import headwise.training.train  # fills the tables with Headwise's own parts
from headwise import registry
from headwise.errors import UserError
from headwise.registry import OWNERS, TABLES, load_plugins, plugged_parts, register, require_parts, table
from tests.browser.views import data_of
from tests.small import ROOT, STEPS, losses, script, script_here

NORM, OTHERS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/plugins.md").read_text(), re.S)
TEXT = "number 3 comes after 2.\n" * 200


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """The registry of this test alone."""
    before = {kind: dict(parts) for kind, parts in TABLES.items()}
    owners = dict(OWNERS)
    modules = set(sys.modules)
    yield
    for kind, parts in before.items():
        TABLES[kind].clear()
        TABLES[kind].update(parts)
    OWNERS.clear()
    OWNERS.update(owners)
    for name in set(sys.modules) - modules:
        if name.startswith("headwise_plugin_"):
            del sys.modules[name]


def forget():
    """Do as a new process would: the plugins have not been imported."""
    for kind, name in list(OWNERS):
        del TABLES[kind][name]
    OWNERS.clear()
    for name in [name for name in sys.modules if name.startswith("headwise_plugin_")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def cwd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "norm.py").write_text(NORM)
    (folder / "my_parts.py").write_text(f"{NORM}\n{OTHERS}")
    (folder / "my.txt").write_text(TEXT)
    return folder


def train(cwd, run_dir, *overrides):
    own = [
        "data=files",
        "data.path=my.txt",
        "data.cache_dir=cache",
        "logger=none",
        "trainer.max_steps=8",
        "schedule=constant",
        "trainer=cpu",
    ]
    own += ["callbacks.attention.every_n_steps=4", "callbacks.samples.tokens=5", f"run_dir={run_dir}"]
    return script_here("train", *STEPS, *own, *overrides, cwd=cwd)


def test_norm_of_ten_lines_trains_to_the_end_with_every_picture_and_the_page(cwd):
    done = train(cwd, "norm", "plugins=[norm.py]", "model.norm=half_power", "model.options={power: 0.7}")
    assert "logit_attribution is left out: a norm of the class HalfPower has no scale" in done.stderr
    assert "Traceback" not in done.stderr
    attention = cwd / "norm/attention"
    pictures = {file.name for file in attention.glob("*.png")}
    train(cwd, "plain", "callbacks.attention.every_n_steps=4")
    expected = {file.name for file in (cwd / "plain/attention").glob("*.png")}
    assert expected - pictures == {"grid_logit_attribution.png", "grid_ov_copying.png"}
    for file in attention.glob("*.png"):
        Image.open(file).verify()
    page = data_of((attention / "view.html").read_text())
    note = "This page shows what was recorded: running a model with model.norm=half_power needs Python."
    assert page["prompts"][0]["note"] == note
    assert len(page["prompts"][0]["vectors"]) == 4
    forget()
    with pytest.raises(UserError) as error:
        hw.load(cwd / "norm")
    assert str(error.value).endswith(
        "best.ckpt needs model.norm=half_power, which norm.py has registered; give --plugin norm.py, "
        "plugins=[norm.py] when training, or hw.load(path, plugins=[...])"
    )
    assert OWNERS == {}  # the file is there, and was not imported
    checkpoint = hw.load(cwd / "norm", plugins=[cwd / "norm.py"])
    assert checkpoint.config.options == {"power": 0.7}
    assert checkpoint.model.norm.power == 0.7
    with torch.no_grad(), hw.capture(checkpoint.model) as maps:
        checkpoint.model(torch.tensor([[1, 2, 3]]))
    assert torch.allclose(maps[1].pattern.sum(-1), torch.ones(1, 2, 3))


def test_run_with_a_plugin_resumes_exactly_and_needs_the_plugin_again(cwd):
    given = ["plugins=[norm.py]", "model.norm=half_power"]
    train(cwd, "whole", *given)
    train(cwd, "parts", *given, "trainer.max_steps=4")
    forget()
    missing = train_fails(cwd, "parts", "model.norm=half_power", "resume=auto")
    assert "model.norm=half_power is none of layernorm, rmsnorm" in missing
    train(cwd, "parts", *given, "resume=auto")
    assert losses(cwd / "parts") == losses(cwd / "whole")


def train_fails(cwd, run_dir, *overrides):
    own = ["data=files", "data.path=my.txt", "data.cache_dir=cache", "logger=none", f"run_dir={run_dir}"]
    done = script_here("train", *STEPS, *own, *overrides, cwd=cwd, ok=False)
    assert done.returncode == 2
    return done.stderr


def test_commands_take_a_plugin_and_name_it_if_it_is_missing(cwd):
    train(cwd, "commands", "plugins=[norm.py]", "model.norm=half_power")
    forget()
    missing = script("generate", "--checkpoint", "commands", "--prompt", "nu", cwd=cwd, ok=False)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "model.norm=half_power, which norm.py has registered; give --plugin norm.py" in missing.stderr
    flags = ["--checkpoint", "commands", "--plugin", "norm.py"]
    first = script_here("generate", *flags, "--prompt", "nu", "--greedy", "--max-new-tokens", 9, cwd=cwd).stdout
    assert len(first) == 12
    assert (
        "left out: a norm of the class HalfPower"
        in script_here(
            "attention", *flags, "--prompt", "number", "--layer", 0, "--head", 1, "--query", 3, cwd=cwd
        ).stdout
    )
    script_here("attention", *flags, "--prompt", "number 3", "--output", "v.html", "--png", "v.png", cwd=cwd)
    assert "needs Python" in (cwd / "v.html").read_text()
    measured = script_here("evaluate", *flags, "--data", "my.txt", cwd=cwd).stdout
    assert "nats per token" in measured
    refused = script_here("export", *flags, "--output", "exported", cwd=cwd, ok=False)
    assert (refused.returncode, "model.norm" in refused.stderr) == (2, True)


def test_each_kind_of_part_trains_and_its_scores_and_input_are_recorded(cwd):
    chosen = ["model.position=recency", "model.mlp=linear", "model.attention=sigmoid", "model.init=uniform"]
    chosen += ["optimizer.kind=sgd", "optimizer.options={momentum: 0.5}", "schedule.kind=square"]
    chosen += ["tokenizer.kind=sorted_bytes", "data=python_docs", "data.source=counting", "data.options={n: 70}"]
    overrides = [one for one in chosen if not one.startswith("model.norm")]
    own = ["plugins=[my_parts.py]", "data.cache_dir=cache", "logger=none", "trainer=cpu"]
    own += ["trainer.max_steps=8", "schedule=constant"]
    own += ["callbacks.attention.every_n_steps=4", "callbacks.samples.tokens=5", "run_dir=all"]
    script_here("train", *STEPS, *own, *overrides, cwd=cwd)
    with (cwd / "all/attention/heads.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["input"] for row in rows} == {"text", "repeats", "question", "val"}
    assert all(0 <= float(row["largest_weight"]) <= 1 for row in rows)
    assert (cwd / "all/attention/grid_largest_weight.png").exists()
    assert (cwd / "all/attention/maps_question_step_000008.png").exists()
    page = data_of((cwd / "all/attention/view.html").read_text())
    assert all(prompt["vectors"] == [] for prompt in page["prompts"])  # the page cannot compute sigmoid weights
    assert "model.attention=sigmoid, " not in page["prompts"][0]["note"].split("with")[0]
    checkpoint = hw.load(cwd / "all")
    assert checkpoint.tokenizer.vocab_size == 257  # documents end with a token
    ids = torch.tensor([checkpoint.tokenizer.encode("number 3 comes")])
    with torch.no_grad(), hw.capture(checkpoint.model) as maps:
        seen = checkpoint.model(ids)
    bias = -torch.log1p((torch.arange(14)[:, None] - torch.arange(14)).clamp(min=0).float())
    by_hand = (maps[1].scaled_scores + bias).sigmoid().tril() / torch.arange(1, 15)[:, None]
    assert torch.allclose(maps[1].pattern, by_hand, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(checkpoint.model(ids), seen, atol=1e-6)
    with chdir(cwd):
        text = hw.generate(checkpoint, "number ", 9, temperature=0)
    assert isinstance(text, str)


def test_bias_that_all_heads_share_is_in_the_page_and_the_walkthrough(cwd):
    train(cwd, "shared", "plugins=[my_parts.py]", "model.position=recency", "callbacks.attention.every_n_steps=8")
    page = data_of((cwd / "shared/attention/view.html").read_text())
    assert all("bias" in one for one in page["prompts"][0]["vectors"])
    flags = ["--checkpoint", "shared", "--plugin", "my_parts.py", "--prompt", "number", "--layer", 1, "--head", 1]
    told = json.loads(script_here("attention", *flags, "--query", 3, "--json", cwd=cwd).stdout)
    numbers = told.get("walkthrough", told)
    assert numbers["position_bias"][0] == pytest.approx(-math.log(4))
    assert numbers["pattern_error"] < 1e-6


def test_plugins_work_in_the_runs_of_a_grid_and_in_prepare(cwd):
    grid = ["-m", "seed=1,2", "plugins=[norm.py]", "model.norm=half_power", "callbacks.attention.every_n_steps=null"]
    train(cwd, "grid", *grid)
    assert (cwd / "grid/1/summary.json").exists()
    forget()
    done = script_here("prepare_data", "plugins=[my_parts.py]", "data.source=counting", "data.cache_dir=cache", cwd=cwd)
    assert "documents        451 for training, 50 held out, with one that the split divides" in done.stdout


def test_help_keys_lists_the_names_of_plugins_beside_their_keys(cwd):
    lines = script_here("train", "--help", "keys", "plugins=[my_parts.py]", cwd=cwd).stdout.splitlines()
    (norm,) = (line for line in lines if line.startswith("model.norm="))
    assert norm.endswith("layernorm, rmsnorm; with plugins: half_power")
    (plugins,) = (line for line in lines if line.startswith("plugins="))
    assert plugins.endswith("with plugins: largest_weight, question")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "plugins=wrong.py does not exist; give a Python file or a module"),
        ("x = 1\ny = = 2\n", r"plugins=wrong.py: SyntaxError: invalid syntax \(wrong.py, line 2\)"),
        ("import no_such_module", "plugins=wrong.py: ModuleNotFoundError: No module named 'no_such_module'"),
        (
            "import headwise as hw\nhw.register('nrom', 'x')",
            "plugins=wrong.py: UserError: kind=nrom is none of .*norm?",
        ),
        ("import headwise as hw\n@hw.register('norm', 'rmsnorm')\ndef f(w, c): ...", "registered already|own"),
    ],
)
def test_plugin_that_cannot_be_imported_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, code, message):
    monkeypatch.chdir(tmp_path)
    if code is not None:
        (tmp_path / "wrong.py").write_text(code)
    before = {kind: set(parts) for kind, parts in TABLES.items()}
    for _ in range(2):  # the second time as the first
        with pytest.raises(UserError, match=message) as error:
            load_plugins(["wrong.py"])
        assert "\n" not in str(error.value)
    assert {kind: set(parts) for kind, parts in TABLES.items()} == before


def test_options_without_a_part_that_could_read_them_are_refused(cwd):
    said = train_fails(cwd, "unread", "model.options={power: 0.7}")
    assert "model.options={'power': 0.7} is for parts of plugins, and the model has none" in said
    assert not (cwd / "unread").exists()


def test_register_in_python_is_recorded_without_a_file():
    @register("norm", "of_a_notebook")
    def norm(width, config):
        return torch.nn.LayerNorm(width)

    (part,) = plugged_parts({"norm": "of_a_notebook", "position": "rotary"})
    assert part == {"kind": "norm", "name": "of_a_notebook", "plugin": registry.IN_PYTHON}
    require_parts([part], "x.ckpt")
    del TABLES["norm"]["of_a_notebook"]
    with pytest.raises(UserError, match=r"^x\.ckpt needs model\.norm=of_a_notebook, which Python code has registered"):
        require_parts([part], "x.ckpt")


def test_table_lists_its_own_parts_first_and_refuses_a_name_that_a_plugin_took():
    own = {"a": 1, "b": 2}
    register("input", "theirs")(3)
    assert list(table("input", own)) == ["a", "b", "theirs"]
    assert list(table("input", own)) == ["a", "b", "theirs"]
    with pytest.raises(UserError, match=r"^input=theirs is one of Headwise's own; register yours under another name$"):
        table("input", {"theirs": 4})


def test_metric_of_a_plugin_is_a_column_of_head_scores(cwd):
    load_plugins([str(cwd / "my_parts.py")])
    pattern = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.5, 0.2, 0.3]])
    scores = hw.head_scores.__globals__["take_snapshot"].__globals__["pattern_scores"](pattern)
    assert float(scores["largest_weight"]) == pytest.approx((0.75 + 0.5) / 2)
    assert np.isfinite(float(scores["entropy"]))
