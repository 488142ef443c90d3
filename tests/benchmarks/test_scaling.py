"""The scaling law's fit finds the law that made the losses."""

import runpy
from pathlib import Path

import pytest

scaling = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/scaling.py"))


def test_a_law_is_found_again_from_losses_that_follow_it():
    law = scaling["Law"](0.9, 31, 0.41, 87, 0.37)
    sizes, tokens = (29_000, 61_000, 127_000), (101_000, 307_000, 1_009_000)
    runs = [scaling["Run"](n, d, float(law(n, d))) for n in sizes for d in tokens]
    found = scaling["fit"](runs)
    assert float(found(811_000, 2_003_000)) == pytest.approx(float(law(811_000, 2_003_000)), rel=0.005)
    assert found.e == pytest.approx(0.9, abs=0.05)
