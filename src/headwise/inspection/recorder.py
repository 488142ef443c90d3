"""Record attention while a model trains: its maps on fixed inputs, and each head's scores.

    recorder = Recorder(folder, tokenizer, [prompt_input("text", ids, tokenizer, block_size)], "my run")
    recorder.begin(step=0)
    snapshot = recorder.record(model, step=500)  # maps_text_step_000500.png, rows of heads.csv, view.html, ...
    last = recorder.finish(model, step=1000)     # EFFECTS and the timelines as well

Independent of Lightning; training/callbacks.py decides when to record.

Dimensions: S steps, M metrics, L = n_layer, H heads, T tokens.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from headwise.config import GPTConfig
from headwise.console import say
from headwise.errors import UserError
from headwise.files import CsvTable, atomic_write, write_text
from headwise.inspection.effects import EFFECTS, repeat_losses
from headwise.inspection.head_scores import PATTERN_METRICS, REPEATS_METRICS, THRESHOLDS, pattern_scores, value_norms
from headwise.inspection.hooks import AttentionMap, run_and_capture
from headwise.inspection.inputs import HELD_OUT_TOKENS, Input, main_input
from headwise.inspection.plots import attention_grid, head_timeline, metric_grid
from headwise.model.gpt import GPT
from headwise.registry import KEYS, MODEL_KINDS, OWNERS, plugged_parts
from headwise.tokenizer import Tokenizer

if TYPE_CHECKING:
    from headwise.inspection.page.page import Prompt, View

REPEATS_COLUMNS = ["step", "first_loss", "repeated_loss"]  # of repeats.csv
Scores = dict[str, np.ndarray]  # metric -> [L, H], or [S, L, H] over steps
Losses = dict[str, list[tuple[int, float]]]  # "train", "val" -> (step, loss)


@dataclass
class Snapshot:
    """Attention maps and head scores of a model at one step, on every input."""

    step: int
    maps: dict[str, list[AttentionMap]] = field(default_factory=dict)  # input -> one for each layer
    scores: dict[str, Scores] = field(default_factory=dict)  # input -> scores
    main_scores: Scores = field(default_factory=dict)  # each metric on its main input
    repeat_losses: tuple[float, float] | None = None  # on first occurrences and on repeated tokens
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

    @property
    def chart_values(self) -> dict[str, float]:
        """Return the values for a logger's charts: the losses on repeats, each metric's greatest and mean score, and
        how many heads exceed its threshold."""
        values: dict[str, float] = {}
        if self.repeat_losses:
            first, repeated = self.repeat_losses
            values |= {"heads/repeated_loss": repeated, "heads/induction_loss": repeated - first}
        for name, scores in self.main_scores.items():
            values |= {f"heads/{name}/max": float(scores.max()), f"heads/{name}/mean": float(scores.mean())}
            if name in THRESHOLDS:
                values[f"heads/{name}/count"] = int((scores > THRESHOLDS[name]).sum())
        return values


def take_snapshot(model: GPT, inputs: Sequence[Input], step: int, effects: Iterable[str] = ()) -> Snapshot:
    """Return the model's maps and scores on each input. `effects` names the metrics of EFFECTS that are measured too,
    on their main input. The model does not change."""
    snapshot = Snapshot(step)
    for each in inputs:
        maps, logits = run_and_capture(model, each.ids)
        layers = [pattern_scores(one.pattern, None if each.period is None else each.ids) for one in maps]
        scores = {name: np.stack([layer[name].mean(0).numpy() for layer in layers]) for name in layers[0]}
        for name in effects:
            if each.name == main_input(inputs, name):
                try:
                    scores[name] = EFFECTS[name](model, each.ids.to(model.embedding.weight.device)).cpu().numpy()
                except UserError as error:  # a plugin's part for which it is not defined
                    say(f"{name} is left out: {error}")
        if each.period is not None:
            snapshot.repeat_losses = repeat_losses(logits, each.ids, each.period)
        snapshot.maps[each.name], snapshot.scores[each.name] = maps, scores
        snapshot.main_scores |= {name: x for name, x in scores.items() if main_input(inputs, name) == each.name}
    return snapshot


def head_metrics() -> list[str]:
    """Return the names of all head metrics, those of plugins included."""
    return [*PATTERN_METRICS, *REPEATS_METRICS, *EFFECTS]


def heads_columns() -> list[str]:
    """Return the columns of heads.csv."""
    return ["step", "input", "layer", "head", *head_metrics()]


class Recorder:
    """Write the scores and pictures of a model's snapshots on fixed inputs to `folder`. `losses` returns the losses so
    far."""

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, inputs: list[Input], title: str, losses: Callable[[], Losses] = dict
    ):
        self.folder, self.inputs, self.title, self.losses = folder, inputs, title, losses
        self.labels = {  # input whose maps are drawn -> the tokens of its first sequence, as they are shown
            each.name: [tokenizer.label(i) for i in each.ids[0].tolist()] for each in inputs if each.drawn
        }
        self.heads_table = CsvTable(folder / "heads.csv", heads_columns())
        self.repeats_table = CsvTable(folder / "repeats.csv", REPEATS_COLUMNS)
        self.page = folder / "view.html"

    def begin(self, step: int) -> None:
        """Start, or resume after `step`: remove the rows and files of later steps. Raise UserError for a damaged
        file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.heads_table.keep_until(step)
        self.repeats_table.keep_until(step)
        for file in [*self.folder.glob("maps_*_step_*.png"), *self.folder.glob("steps/step_*.npz")]:
            if step_of(file) > step:
                file.unlink()
        self.saved_steps()  # raises for a damaged file before training begins

    def record(self, model: GPT, step: int, pictures: bool = True, effects: Iterable[str] = ()) -> Snapshot:
        """Take a snapshot and write its scores; with `pictures` also draw it, and write the page of all steps so far.
        The model does not change."""
        snapshot = take_snapshot(model, self.inputs, step, effects)
        self.heads_table.append(snapshot.rows)
        if snapshot.repeat_losses:
            self.repeats_table.append([dict(zip(REPEATS_COLUMNS, (step, *snapshot.repeat_losses), strict=True))])
        if pictures:
            from headwise.inspection.page.page import render

            self.draw(snapshot)
            self.save_step(snapshot)
            write_text(self.page, render(self.view(model, snapshot)))
        return snapshot

    def finish(self, model: GPT, step: int) -> Snapshot:
        """Record the last step with EFFECTS, in place of an earlier snapshot of the same step, and draw the
        timelines."""
        self.heads_table.keep_until(step - 1)
        self.repeats_table.keep_until(step - 1)
        snapshot, saved, losses = self.record(model, step, effects=EFFECTS), self.saved_steps(), self.losses()
        scores = unstack_scores([arrays["scores"] for arrays in saved.values()])
        repeated = self.repeats_table.rows()
        on_repeats = {"on repeats": [(int(row["step"]), float(row["repeated_loss"])) for row in repeated]}
        for name in (name for name in THRESHOLDS if name in scores):
            curves = losses | on_repeats if name in REPEATS_METRICS else losses
            title = f"{name} on {main_input(self.inputs, name)}"
            image = head_timeline(scores[name], list(saved), title, THRESHOLDS[name], curves)
            snapshot.pictures[f"heads/timeline/{name}"] = self.save_picture(image, f"timeline_{name}.png")
        return snapshot

    def draw(self, snapshot: Snapshot) -> None:
        """Write the attention grids of the inputs and the grids of the metrics."""
        for name, labels in self.labels.items():
            title = f"{name}, step {snapshot.step}"
            image = attention_grid(first_patterns(snapshot.maps[name]), labels, snapshot.scores[name], title)
            file = f"maps_{name}_step_{snapshot.step:06d}.png"
            snapshot.pictures[f"attn/maps/{name}"] = self.save_picture(image, file)
        for metric, values in snapshot.main_scores.items():
            title = f"{metric} on {main_input(self.inputs, metric)}, step {snapshot.step}"
            image = metric_grid(values, title, colour_limits(metric, values))
            snapshot.pictures[f"heads/{metric}"] = self.save_picture(image, f"grid_{metric}.png")

    def save_step(self, snapshot: Snapshot) -> None:
        """Save what the timelines and the page need of a step to a file, so that memory does not grow with the number
        of steps."""
        arrays = {"scores": stack_scores(snapshot.main_scores)}
        for name in self.labels:
            scores = snapshot.main_scores | snapshot.scores[name]  # the input's own scores, where measured
            arrays |= {f"{name}.{part}": x for part, x in page_arrays(snapshot.maps[name], scores).items()}
        path = self.folder / "steps" / f"step_{snapshot.step:06d}.npz"
        with atomic_write(path) as temporary, temporary.open("wb") as file:
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
        """Return the page's contents: all saved steps, and q, k and v of the last."""
        from headwise.inspection.page.page import View

        saved, prompts = self.saved_steps(), []
        for name, labels in self.labels.items():
            parts = [{part: step[f"{name}.{part}"] for part in PAGE_ARRAYS} for step in saved.values()]
            prompts.append(page_prompt(name, labels, parts, last.maps[name], model.config))
        normalize = page_normalize(model.config)
        return View(self.title, list(saved), prompts, model.config.n_kv_head, normalize, self.losses())

    def save_picture(self, image: Image.Image, name: str) -> Path:
        """Write a picture to the folder and return its file."""
        with atomic_write(self.folder / name) as temporary:
            image.save(temporary, format="PNG", compress_level=1)
        return self.folder / name


def step_of(file: Path) -> int:
    """Return the step at the end of a file's name."""
    return int(file.stem.rsplit("_", 1)[1])


def first_patterns(maps: list[AttentionMap]) -> np.ndarray:
    """Return the patterns of the batch's first sequence, [L, H, T, T]."""
    return np.stack([one.pattern[0].numpy() for one in maps])


PAGE_ARRAYS = ("patterns", "norms", "scores")


def page_arrays(maps: list[AttentionMap], scores: Scores) -> dict[str, np.ndarray]:
    """Return what the page shows of one input at one step (PAGE_ARRAYS): of the batch's first sequence the patterns in
    8 bits [L, H, T(T+1)/2] and the value norms [L, H, T], and the scores [M, L, H]."""
    from headwise.inspection.page.page import compand

    norms = np.stack([value_norms(one)[0].numpy() for one in maps])
    return dict(zip(PAGE_ARRAYS, (compand(first_patterns(maps)), norms, stack_scores(scores)), strict=True))


def page_normalize(config: GPTConfig) -> str:
    """Return how the page makes weights of scores. Those of a plugin's attention are shown as they were stored."""
    return config.attention if ("attention", config.attention) not in OWNERS else "softmax"


def page_prompt(
    name: str, labels: list[str], steps: list[dict[str, np.ndarray]], maps: list[AttentionMap], config: GPTConfig
) -> Prompt:
    """Return one input of the page from its page_arrays at each step and its maps at the last. The page of a model with
    parts of a plugin says that it cannot compute them; with a plugin's attention it has no head to step through."""
    from headwise.inspection.page.page import Prompt

    patterns, norms = (np.stack([arrays[part] for arrays in steps]) for part in PAGE_ARRAYS[:2])
    plugged = plugged_parts({kind: getattr(config, kind) for kind in MODEL_KINDS})
    parts = ", ".join(f"{KEYS[part['kind']]}={part['name']}" for part in plugged)
    note = f"This page shows what was recorded: running a model with {parts} needs Python." if plugged else ""
    heads: list[tuple[int, int]] | None = [] if ("attention", config.attention) in OWNERS else None
    scores = unstack_scores([arrays["scores"] for arrays in steps])
    return Prompt(name, labels, patterns, norms, scores, maps, heads, note=note)


def stack_scores(scores: Scores) -> np.ndarray:
    """Return scores as one array [M, L, H], in the order of head_metrics(); NaN where a metric was not measured."""
    blank = np.full_like(next(iter(scores.values())), np.nan)
    return np.stack([scores.get(name, blank) for name in head_metrics()])


def unstack_scores(steps: list[np.ndarray]) -> Scores:
    """Return the stacked scores of all steps as {metric: [S, L, H]}, for the metrics that were measured at any step."""
    scores = zip(head_metrics(), np.stack(steps, axis=1), strict=True)
    return {name: values for name, values in scores if not np.isnan(values).all()}


def colour_limits(metric: str, values: np.ndarray) -> tuple[float, float]:
    """Return the scores at the ends of a grid's colour scale: the same at every step, or, for metrics that are measured
    once, the greatest score."""
    if metric.startswith("mean_distance"):
        return 0.0, HELD_OUT_TOKENS / 2
    if metric == "ov_copying":
        return -1.0, 1.0
    if metric in EFFECTS or ("head_metric", metric) in OWNERS:
        greatest = float(np.abs(values).max()) or 1.0
        return (0.0 if metric == "importance" else -greatest), greatest
    return 0.0, 1.0
