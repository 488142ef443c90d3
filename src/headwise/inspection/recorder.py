"""Records attention while a model trains: fixed inputs, their maps, and each head's scores.

    recorder = Recorder(folder, tokenizer, [prompt_input("text", ids, tokenizer, block_size)], "my run")
    recorder.begin(step=0)
    snapshot = recorder.record(model, step=500)  # maps_text_step_000500.png, rows of heads.csv, view.html, ...
    last = recorder.finish(model, step=1000)     # effects on predictions and the timelines as well

Independent of Lightning; training/callbacks.py decides when to record.

Dimensions: S steps, M scores, L = n_layer, H heads, T tokens.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from headwise.errors import UserError
from headwise.files import CsvTable, whole, write_text
from headwise.inspection.effects import EFFECTS, repeat_losses
from headwise.inspection.head_scores import FORMED, METRICS, OF_REPEATS, head_scores, value_norms
from headwise.inspection.hooks import AttentionMap, run_and_capture
from headwise.inspection.inputs import HELD_OUT, Input
from headwise.inspection.page.page import Prompt, View, compand, render
from headwise.inspection.plots import attention_grid, head_timeline, metric_grid
from headwise.model.gpt import GPT
from headwise.tokenizer import Tokenizer

SCORES = [*METRICS, *EFFECTS]
COLUMNS = ["step", "input", "layer", "head", *SCORES]
REPEATS = ["step", "first_loss", "repeated_loss"]
Scores = dict[str, np.ndarray]  # metric -> [L, H], or [S, L, H] over steps
Losses = dict[str, list[tuple[int, float]]]  # "train", "val" -> (step, loss)


@dataclass
class Snapshot:
    """What was recorded at one step."""

    step: int
    maps: dict[str, list[AttentionMap]] = field(default_factory=dict)  # input -> one for each layer
    scores: dict[str, Scores] = field(default_factory=dict)  # input -> scores
    main: Scores = field(default_factory=dict)  # each metric's scores on its main input
    numbers: dict[str, float] = field(default_factory=dict)  # heads/<metric>/max, mean, count; heads/repeated_loss, ...
    pictures: dict[str, Path] = field(default_factory=dict)  # attn/maps/<input> and heads/<metric>: PNG files

    @property
    def rows(self) -> list[dict]:
        """Return the rows of heads.csv."""
        return [
            {"step": self.step, "input": name, "layer": layer, "head": head}
            | {metric: float(values[layer, head]) for metric, values in scores.items()}
            for name, scores in self.scores.items()
            for layer, head in np.ndindex(*scores["entropy"].shape)
        ]


class Recorder:
    """Runs a model on fixed inputs and writes scores and pictures to `folder`. `losses` returns the losses so far."""

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, inputs: list[Input], title: str, losses: Callable[[], Losses] = dict
    ):
        self.folder, self.tokenizer, self.inputs, self.title, self.losses = folder, tokenizer, inputs, title, losses
        self.drawn = [each for each in inputs if each.drawn]
        self.table, self.repeats = CsvTable(folder / "heads.csv", COLUMNS), CsvTable(folder / "repeats.csv", REPEATS)
        self.page = folder / "view.html"

    def begin(self, step: int) -> None:
        """Start, or resume after `step`: rows and files of later steps are removed. Raise UserError for a damaged
        file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.table.begin(step)
        self.repeats.begin(step)
        for file in [*self.folder.glob("maps_*_step_*.png"), *self.folder.glob("steps/step_*.npz")]:
            if step_of(file) > step:
                file.unlink()
        self.saved_steps()  # finds a damaged file before training begins

    def record(self, model: GPT, step: int, pictures: bool = True, effects: bool = False) -> Snapshot:
        """Write every input's scores, with `effects` also those that need more than one forward pass; with `pictures`
        also the maps, and the page of all steps so far. The model does not change."""
        snapshot = Snapshot(step)
        for each in self.inputs:
            maps, logits = run_and_capture(model, each.ids)
            scores = mean_scores(maps, each)
            if effects and not each.drawn:
                ids = each.ids.to(model.embedding.weight.device)
                scores |= {name: effect(model, ids).cpu().numpy() for name, effect in EFFECTS.items()}
            if each.period is not None:
                first, repeated = repeat_losses(logits, each.ids, each.period)
                self.repeats.append([{"step": step, "first_loss": first, "repeated_loss": repeated}])
                snapshot.numbers |= {"heads/repeated_loss": repeated, "heads/induction_loss": repeated - first}
            snapshot.maps[each.name], snapshot.scores[each.name] = maps, scores
            snapshot.main |= {name: x for name, x in scores.items() if self.main_input(name) == each.name}
        self.table.append(snapshot.rows)
        snapshot.numbers |= chart_values(snapshot.main)
        if pictures:
            self.draw(snapshot)
            self.save_step(snapshot)
            write_text(self.page, render(self.view(model, snapshot)))
        return snapshot

    def finish(self, model: GPT, step: int) -> Snapshot:
        """Record the last step with all effects, in place of an earlier snapshot of the same step, and draw the
        timelines."""
        self.table.begin(step - 1)
        self.repeats.begin(step - 1)
        snapshot, saved, losses = self.record(model, step, effects=True), self.saved_steps(), self.losses()
        scores = by_metric(np.stack([arrays["scores"] for arrays in saved.values()]))
        on_repeats = {"on repeats": [(int(row["step"]), float(row["repeated_loss"])) for row in self.repeats.rows()]}
        for name in (name for name in FORMED if name in scores):
            title, curves = f"{name} on {self.main_input(name)}", losses | on_repeats if name in OF_REPEATS else losses
            image = head_timeline(scores[name], list(saved), title, FORMED[name], curves)
            snapshot.pictures[f"heads/timeline/{name}"] = self.save(image, f"timeline_{name}.png")
        return snapshot

    def main_input(self, metric: str) -> str | None:
        """Return the name of the input whose score stands for the head: repeated tokens for metrics that are defined
        on them, held-out text for all others; None if there is no such input."""
        repeats = metric in OF_REPEATS
        suitable = (each for each in self.inputs if (each.period is not None if repeats else not each.drawn))
        return next((each.name for each in suitable), None)

    def draw(self, snapshot: Snapshot) -> None:
        """Write the attention grids of inputs and the grids of metrics."""
        for each in self.drawn:
            name, title = f"maps_{each.name}_step_{snapshot.step:06d}.png", f"{each.name}, step {snapshot.step}"
            patterns, scores = first_patterns(snapshot.maps[each.name]), snapshot.scores[each.name]
            image = attention_grid(patterns, self.labels(each), scores, title)
            snapshot.pictures[f"attn/maps/{each.name}"] = self.save(image, name)
        for metric, values in snapshot.main.items():
            title = f"{metric} on {self.main_input(metric)}, step {snapshot.step}"
            image = metric_grid(values, title, limits(metric, values))
            snapshot.pictures[f"heads/{metric}"] = self.save(image, f"grid_{metric}.png")

    def save_step(self, snapshot: Snapshot) -> None:
        """Write what timelines and page show of a step to a file, so that memory does not grow with the steps."""
        arrays = {"scores": stacked(snapshot.main)}
        for name in (each.name for each in self.drawn):
            arrays[f"{name}.patterns"], arrays[f"{name}.norms"] = page_arrays(snapshot.maps[name])
            arrays[f"{name}.scores"] = stacked(snapshot.main | snapshot.scores[name])  # its own, where measured
        with whole(self.folder / "steps" / f"step_{snapshot.step:06d}.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    def saved_steps(self) -> dict[int, dict[str, np.ndarray]]:
        """Return the saved arrays of each step. Raise UserError for a damaged file."""
        saved = {}
        for file in sorted(self.folder.glob("steps/step_*.npz"), key=step_of):
            try:
                with np.load(file) as arrays:
                    saved[step_of(file)] = dict(arrays)
            except (ValueError, BadZipFile, EOFError, zlib.error) as error:
                raise UserError(f"{file} is damaged; move it away to continue without that step") from error
        return saved

    def view(self, model: GPT, last: Snapshot) -> View:
        """Return the page's contents: all saved steps, and the vectors of the last."""
        saved, prompts = self.saved_steps(), []
        for each in self.drawn:
            patterns, norms, scores = (
                np.stack([arrays[f"{each.name}.{part}"] for arrays in saved.values()])
                for part in ("patterns", "norms", "scores")
            )
            maps, labels = last.maps[each.name], self.labels(each)
            prompts.append(Prompt(each.name, labels, patterns, norms, by_metric(scores), maps))
        config = model.config
        return View(self.title, list(saved), prompts, config.n_kv_head, config.attention, self.losses())

    def labels(self, each: Input) -> list[str]:
        """Return the tokens of an input's first sequence as they are shown."""
        return [self.tokenizer.label(i) for i in each.ids[0].tolist()]

    def save(self, image: Image.Image, name: str) -> Path:
        """Write a picture to the folder and return its file."""
        with whole(self.folder / name) as temporary:
            image.save(temporary, format="PNG", compress_level=1)
        return self.folder / name


def step_of(file: Path) -> int:
    """Return the step at the end of a file's name."""
    return int(file.stem.rsplit("_", 1)[1])


def first_patterns(maps: list[AttentionMap]) -> np.ndarray:
    """Return the patterns of the batch's first sequence, [L, H, T, T]."""
    return np.stack([one.pattern[0].numpy() for one in maps])


def page_arrays(maps: list[AttentionMap]) -> tuple[np.ndarray, np.ndarray]:
    """Return what the page shows of the batch's first sequence at one step: patterns in 8 bits [L, H, T(T+1)/2] and
    value norms [L, H, T]."""
    return compand(first_patterns(maps)), np.stack([value_norms(one)[0].numpy() for one in maps])


def stacked(scores: Scores) -> np.ndarray:
    """Return scores as one array [M, L, H], in the order of SCORES; NaN where a metric was not measured."""
    blank = np.full_like(next(iter(scores.values())), np.nan)
    return np.stack([scores.get(name, blank) for name in SCORES])


def by_metric(stacks: np.ndarray) -> Scores:
    """Return the stacked scores of all steps [S, M, L, H] as {metric: [S, L, H]}, for those that were ever measured."""
    scores = zip(SCORES, stacks.swapaxes(0, 1), strict=True)
    return {name: values for name, values in scores if not np.isnan(values).all()}


def mean_scores(maps: list[AttentionMap], each: Input) -> Scores:
    """Return every metric of patterns that applies to the input, means over the batch."""
    layers = [head_scores(one.pattern, None if each.period is None else each.ids) for one in maps]
    return {name: np.stack([layer[name].mean(0).numpy() for layer in layers]) for name in layers[0]}


def limits(metric: str, values: np.ndarray) -> tuple[float, float]:
    """Return the scores at the ends of a grid's colours: the same at every step or, for what is measured once, the
    greatest score."""
    if metric.startswith("mean_distance"):
        return 0.0, float(HELD_OUT[1] / 2)
    if metric == "ov_copying":
        return -1.0, 1.0
    if metric in EFFECTS:
        greatest = float(np.abs(values).max()) or 1.0
        return (0.0 if metric == "importance" else -greatest), greatest
    return 0.0, 1.0


def chart_values(scores: Scores) -> dict[str, float]:
    """Return each metric's greatest and mean score, and how many heads have formed."""
    numbers = {}
    for name, values in scores.items():
        numbers[f"heads/{name}/max"], numbers[f"heads/{name}/mean"] = float(values.max()), float(values.mean())
        if name in FORMED:
            numbers[f"heads/{name}/count"] = int((values > FORMED[name]).sum())
    return numbers
