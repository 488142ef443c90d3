"""The same look at a model again and again while it learns: fixed prompts, their maps, what each head scores.

    recorder = Recorder(folder, tokenizer, {"text": tokenizer.encode("The lions left.")}, block_size=64)
    look = recorder.look(model, step=500)        # writes maps_text_step_000500.png and rows of heads.csv

Knows nothing of Lightning; training/callbacks.py decides when to look.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from headwise.cli import say
from headwise.errors import require
from headwise.files import CsvTable, whole
from headwise.inspection.capture import capture
from headwise.inspection.heads import METRICS, head_scores
from headwise.inspection.plots import contact_sheet
from headwise.model.gpt import GPT, eval_mode
from headwise.tokenizer import Tokenizer

PROBE_TOKENS = 64  # as many as a contact sheet shows legibly
OWN_PROBE_TOKENS = 40
PROSE = re.compile(r"[^\W\d_]+( [^\W\d_]+[,.;:]?){5,}")  # a line of at least six words, single spaces between


@dataclass
class Look:
    """What one moment showed: contact sheets by probe, scores by name."""

    step: int
    sheets: dict[str, Path] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)  # heads/<metric>/<probe>/L<layer>H<head>


class Recorder:
    """Looks at fixed probes: short names and the token ids of prompts, which are cut to what can be shown."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, probes: dict[str, list[int]], block_size: int):
        self.folder, self.tokenizer = folder, tokenizer
        shown = min(PROBE_TOKENS, block_size)
        for name, ids in probes.items():
            require(len(ids) >= 2, f"{name} ({tokenizer.decode(ids)!r}) is too short to attend in: give two tokens")
            if len(ids) > shown:
                say(f"{name} is looked at up to its first {shown} of {len(ids)} tokens")
        self.probes = {name: ids[:shown] for name, ids in probes.items()}
        self.table = CsvTable(folder / "heads.csv", ["step", "probe", "layer", "head", *METRICS])

    def begin(self, step: int) -> None:
        """Start, or take up again after `step`: what was written for later steps is dropped."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.table.begin(step)
        for picture in self.folder.glob("maps_*_step_*.png"):
            if int(picture.stem.rsplit("_", 1)[1]) > step:
                picture.unlink()

    def look(self, model: GPT, step: int) -> Look:
        """Run the probes and write their maps and scores. The model comes back as it was."""
        look = Look(step)
        for name, ids in self.probes.items():
            patterns = self.patterns(model, ids)
            scores = {metric: values.numpy() for metric, values in head_scores(patterns).items()}
            labels = [self.tokenizer.label(i) for i in ids]
            image = contact_sheet(patterns.numpy(), labels, scores, f"{name}, step {step}")
            file = self.folder / f"maps_{name}_step_{step:06d}.png"
            with whole(file) as temporary:
                image.save(temporary, format="PNG")
            look.sheets[name] = file
            rows = []
            for layer, head in np.ndindex(*patterns.shape[:2]):
                row = {metric: float(values[layer, head]) for metric, values in scores.items()}
                rows.append({"step": step, "probe": name, "layer": layer, "head": head, **row})
                look.scores |= {f"heads/{metric}/{name}/L{layer}H{head}": value for metric, value in row.items()}
            self.table.append(rows)
        return look

    def patterns(self, model: GPT, ids: list[int]) -> torch.Tensor:
        """The patterns of one prompt, [n_layer, n_head, T, T], on the CPU."""
        device = model.embedding.weight.device
        with torch.no_grad(), eval_mode(model), capture(model) as maps:
            model(torch.tensor([ids], device=device))
        return torch.stack([maps[layer].pattern[0] for layer in sorted(maps)]).cpu()


def own_probe(text: str) -> str:
    """A stretch of the text itself to look at: from the first line that reads like prose, else from the start."""
    lines = text.splitlines(keepends=True)
    prose = (i for i, line in enumerate(lines[:500]) if PROSE.fullmatch(line.rstrip()))
    return "".join(lines[next(prose, 0) :])[:2000]
