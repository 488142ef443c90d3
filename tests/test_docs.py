"""What the documents say is so."""

import ast
import re

import torch

from headwise.inspection.capture import capture
from headwise.model import attention
from tests.small import ROOT, small_model


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
