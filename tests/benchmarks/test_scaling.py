"""The scaling law's fit finds the law that made the losses."""

import runpy
from pathlib import Path

import pytest

scaling = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/scaling.py"))


@pytest.mark.parametrize(
    ("form", "law"),
    [
        ("sum", lambda n, d: 0.9 + 31 / n**0.41 + 87 / d**0.37),
        ("product", lambda n, d: 0.9 + 4300 / (n**0.33 * d**0.41)),
    ],
)
def test_a_law_is_found_again_from_losses_that_follow_it(form, law):
    sizes, tokens = (29_000, 61_000, 127_000), (101_000, 307_000, 1_009_000)
    runs = [scaling["Run"](n, d, law(n, d)) for n in sizes for d in tokens]
    found = scaling["fit"](runs, form)
    assert float(found(811_000, 2_003_000)) == pytest.approx(
        law(811_000, 2_003_000), rel=0.01
    )  # as fine as the grid of exponents is
    assert found.factors[0] == pytest.approx(0.9, abs=0.05)
    other = scaling["fit"](runs, "product" if form == "sum" else "sum")
    assert scaling["off"](found, runs) < scaling["off"](other, runs)
