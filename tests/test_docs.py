"""What the documents say is so."""

import ast
import doctest
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from headwise.inspection.hooks import capture
from headwise.model import attention
from tests.small import ROOT, script_here, small_model


def test_every_claim_names_a_test_that_exists():
    rows = re.findall(r"^\| (.+?) \| `(tests/[\w/]+\.py)::(test_\w+)` \|$", (ROOT / "docs/claims.md").read_text(), re.M)
    assert len(rows) == (ROOT / "docs/claims.md").read_text().count("\n| ") - 1  # all but the head of the table
    for claim, file, name in rows:
        tests = {node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if hasattr(node, "name")}
        assert name in tests, claim


def test_the_normalisation_that_contributing_adds_works_everywhere(monkeypatch):
    """The function and the line of the table, as printed there, added to attention.py and nothing else."""
    function, line = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    source = (ROOT / "src/headwise/model/attention.py").read_text()
    table = "ATTENTIONS = {\n"
    assert source.count(table) == 1
    changed = source.replace(table, f"{function}\n\n{table}{line}")
    namespace = {"__name__": attention.__name__}
    exec(compile(changed, "attention.py", "exec"), namespace)
    monkeypatch.setitem(attention.ATTENTIONS, "sigmoid", namespace["ATTENTIONS"]["sigmoid"])
    model = small_model(attention="sigmoid")
    ids = torch.randint(23, (2, 11))
    plain = model(ids)
    with capture(model) as maps:
        seen = model(ids)
    assert torch.allclose(plain, seen, atol=1e-6)
    by_hand = torch.sigmoid(maps[1].q @ maps[1].k.transpose(-2, -1) / 6**0.5).tril() / torch.arange(1, 12)[:, None]
    assert torch.allclose(maps[1].pattern, by_hand, atol=1e-6)


GUIDE = ROOT / "docs/attention.md"


def test_the_guide_to_attention_prints_what_it_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    result = doctest.testfile(str(GUIDE), module_relative=False)
    assert result.attempted > 30
    assert result.failed == 0


def test_the_guide_quotes_lines_that_are_there():
    """Each block of code stands after a link to the file whose lines it quotes, in their order."""
    parts = re.split(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S)
    assert len(parts) > 20
    links: list[str] = []
    for before, quoted in zip(parts[::2], parts[1::2], strict=False):
        links += re.findall(r"\]\((\S+\.py)\)", before)
        source, at = (GUIDE.parent / links[-1]).read_text(), 0
        for line in quoted.splitlines():
            at = source.find(line.strip(), at)
            assert at >= 0, line


@pytest.mark.parametrize(
    "block", re.findall(r"```sh\n(.*?)\n```\n\n```text\n(.*?)\n```", GUIDE.read_text(), flags=re.S)
)
def test_the_guides_commands_print_what_it_says(block, tmp_path, monkeypatch):
    command, expected = block
    monkeypatch.setenv("COLUMNS", "80")
    shutil.copytree(GUIDE.parent / "example", tmp_path / "docs/example")
    _, script, *flags = shlex.split(command)
    shown = script_here(Path(script).stem, *flags, cwd=tmp_path).stdout
    assert_same_but_for_rounding("\n".join(line.rstrip() for line in shown.splitlines()), expected)
    for picture in re.findall(r"\S+\.png", command):
        drawn, kept = (Image.open(folder / picture) for folder in (tmp_path, ROOT))
        assert drawn.size == kept.size


def assert_same_but_for_rounding(text, expected):
    """Equal, where a number's last digit may differ by one and the tiny ones in exponents are all alike."""
    number = r"-?\d+\.?\d*(?:e-\d+)?"
    assert re.sub(rf" *{number}", " #", text) == re.sub(rf" *{number}", " #", expected)
    for ours, theirs in zip(re.findall(number, text), re.findall(number, expected), strict=True):
        unit = 1e-4 if "e" in theirs else 10.0 ** -len(theirs.partition(".")[2])
        assert float(ours) == pytest.approx(float(theirs), abs=1.01 * unit)
