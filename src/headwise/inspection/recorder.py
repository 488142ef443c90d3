"""The same look at a model again and again while it learns: fixed inputs, their maps, what each head scores.

    recorder = Recorder(folder, tokenizer, [prompt_input("text", ids, tokenizer, block_size)], "my run")
    look = recorder.look(model, step=500)     # maps_text_step_000500.png, rows of heads.csv, view.html, ...
    last = recorder.finish(model, step=1000)  # what heads do to predictions, and the timelines, as well

Knows nothing of Lightning; training/callbacks.py decides when to look.

Dimensions: S steps, L = n_layer, H heads, T tokens.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headwise.errors import UserError
from headwise.files import CsvTable, whole, write_text
from headwise.inspection.effects import EFFECTS, repeat_losses
from headwise.inspection.head_scores import FORMED, METRICS, OF_REPEATS, head_scores, value_norms
from headwise.inspection.hooks import AttentionMap, capture
from headwise.inspection.inputs import HELD_OUT, Input
from headwise.inspection.page.page import HeadVectors, Prompt, View, companded, render
from headwise.inspection.plots import attention_grid, head_timeline, metric_grid
from headwise.model.gpt import GPT, eval_mode
from headwise.tokenizer import Tokenizer

SCORES = [*METRICS, *EFFECTS]
COLUMNS = ["step", "input", "layer", "head", *SCORES]
REPEATS = ["step", "first_loss", "repeated_loss"]
PARTS = ("patterns", "norms")  # what is kept of a prompt's maps
Scores = dict[str, np.ndarray]  # metric -> [L, H]
Losses = dict[str, list[tuple[int, float]]]  # "train", "val" -> (step, loss)


@dataclass
class Look:
    """What one moment showed."""

    step: int
    pictures: dict[str, Path] = field(default_factory=dict)  # attn/maps/<input> and heads/<metric>: PNG files
    numbers: dict[str, float] = field(default_factory=dict)  # heads/<metric>/max, mean, count; heads/repeated_loss, ...
    rows: list[dict] = field(default_factory=list)  # of heads.csv


class Recorder:
    """Looks at fixed inputs and keeps what it saw in `folder`. `losses` gives those so far, to draw beside the maps."""

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        inputs: list[Input],
        title: str,
        losses: Callable[[], Losses] = dict,
    ):
        self.folder, self.tokenizer, self.inputs, self.title, self.losses = folder, tokenizer, inputs, title, losses
        self.table, self.repeats = CsvTable(folder / "heads.csv", COLUMNS), CsvTable(folder / "repeats.csv", REPEATS)
        self.page = folder / "view.html"

    def begin(self, step: int) -> None:
        """Start, or take up again after `step`: what was written for later steps is dropped."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.table.begin(step)
        self.repeats.begin(step)
        for file in [*self.folder.glob("maps_*_step_*.png"), *self.folder.glob("steps/step_*.npz")]:
            if step_of(file) > step:
                file.unlink()
        self.moments()  # so that a damaged file is found before there is work to lose

    def look(self, model: GPT, step: int, pictures: bool = True, final: bool = False) -> Look:
        """Run the inputs and write their scores; with `pictures` also their maps, and the page of all steps so far;
        at the `final` look also what heads do to predictions. The model comes back as it was."""
        look, told, own = Look(step), Scores(), dict[str, Scores]()
        every: dict[str, list[AttentionMap]] = {}
        for each in self.inputs:
            seen, logits = see(model, each.ids)
            every[each.name] = seen
            scores = scores_of(seen, each)
            own[each.name] = scores
            if final and not each.shown:
                ids = each.ids.to(model.embedding.weight.device)
                scores |= {name: effect(model, ids).cpu().numpy() for name, effect in EFFECTS.items()}
            look.rows += rows_of(scores, step, each.name)
            told |= {name: values for name, values in scores.items() if tells(each, name)}
            if pictures and each.shown:
                image = attention_grid(first(seen), self.labels(each), scores, f"{each.name}, step {step}")
                look.pictures[f"attn/maps/{each.name}"] = self.save(image, f"maps_{each.name}_step_{step:06d}.png")
            if each.period is not None:
                first_time, again = repeat_losses(logits, each.ids, each.period)
                self.repeats.append([{"step": step, "first_loss": first_time, "repeated_loss": again}])
                look.numbers |= {"heads/repeated_loss": again, "heads/induction_loss": again - first_time}
        self.table.append(look.rows)
        look.numbers |= summary(told)
        if pictures:
            for name, values in told.items():
                image = metric_grid(values, f"{name} on {self.telling(name)}, step {step}", limits(name, values))
                look.pictures[f"heads/{name}"] = self.save(image, f"grid_{name}.png")
            self.keep(step, told, own, every)
            write_text(self.page, render(self.view(model, every)))
        return look

    def finish(self, model: GPT, step: int) -> Look:
        """The last look, in place of an earlier one at the same step, and the timelines."""
        self.table.begin(step - 1)
        self.repeats.begin(step - 1)
        look = self.look(model, step, final=True)
        losses, told = self.losses(), {step: unstacked(arrays["scores"]) for step, arrays in self.moments().items()}
        repeats = [(int(row["step"]), float(row["repeated_loss"])) for row in self.repeats.rows()]
        for name, formed in FORMED.items():
            scores = [scores[name] for scores in told.values() if name in scores]
            if scores:
                curves = losses | ({"on repeats": repeats} if name in OF_REPEATS else {})
                image = head_timeline(np.stack(scores), list(told), f"{name} on {self.telling(name)}", formed, curves)
                look.pictures[f"heads/timeline/{name}"] = self.save(image, f"timeline_{name}.png")
        return look

    def telling(self, metric: str) -> str:
        """The name of the input that tells most of a metric."""
        return next(each.name for each in self.inputs if tells(each, metric))

    def keep(self, step: int, told: Scores, own: dict[str, Scores], every: dict[str, list[AttentionMap]]) -> None:
        """Write down what the timelines show of this step (`told`), and the page (each prompt's `own`, as far as it
        goes). In a file, so that memory does not grow with the steps."""
        arrays = {"scores": stacked(told)}
        for each in self.shown():
            arrays |= {f"{each.name}.{part}": array for part, array in kept(every[each.name]).items()}
            arrays[f"{each.name}.scores"] = stacked(told | own[each.name])
        with whole(self.folder / "steps" / f"step_{step:06d}.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    def moments(self) -> dict[int, dict[str, np.ndarray]]:
        """What was kept of each step. Raises UserError for a damaged file."""
        moments = {}
        for file in sorted(self.folder.glob("steps/step_*.npz"), key=step_of):
            try:
                with np.load(file) as arrays:
                    moments[step_of(file)] = dict(arrays)
            except (ValueError, BadZipFile, EOFError, zlib.error) as error:
                raise UserError(f"{file} is damaged; move it away to go on without that step") from error
        return moments

    def view(self, model: GPT, every: dict[str, list[AttentionMap]]) -> View:
        """The page's contents: the maps of all steps kept, and the vectors of `every`, the last."""
        moments, prompts = self.moments(), []
        for each in self.shown():
            scores = [unstacked(arrays[f"{each.name}.scores"]) for arrays in moments.values()]
            maps = [{part: arrays[f"{each.name}.{part}"] for part in PARTS} for arrays in moments.values()]
            prompts.append(page_prompt(each.name, self.labels(each), maps, scores, every[each.name]))
        return View(self.title, list(moments), prompts, model.config.kv_heads, model.config.attention, self.losses())

    def shown(self) -> list[Input]:
        """The inputs whose maps are drawn."""
        return [each for each in self.inputs if each.shown]

    def labels(self, each: Input) -> list[str]:
        """The tokens of its first sequence, as they are shown."""
        return [self.tokenizer.label(i) for i in each.ids[0].tolist()]

    def save(self, image: Image.Image, name: str) -> Path:
        """The picture's file, whole."""
        with whole(self.folder / name) as temporary:
            image.save(temporary, format="PNG", compress_level=1)
        return self.folder / name


def step_of(file: Path) -> int:
    """The step at the end of a file's name."""
    return int(file.stem.rsplit("_", 1)[1])


def see(model: GPT, ids: Tensor) -> tuple[list[AttentionMap], Tensor]:
    """Every layer's attention as the model reads ids [B, T], and its logits [B, T, V], on the CPU."""
    with torch.no_grad(), eval_mode(model), capture(model) as maps:
        logits = model(ids.to(model.embedding.weight.device))
    return [maps[layer].cpu() for layer in sorted(maps)], logits.cpu()


def first(seen: list[AttentionMap]) -> np.ndarray:
    """The patterns of the batch's first sequence, [L, H, T, T]."""
    return np.stack([layer.pattern[0].numpy() for layer in seen])


def kept(seen: list[AttentionMap]) -> dict[str, np.ndarray]:
    """What the page shows of the batch's first sequence at one step: its maps, in 8 bits, and what each token gives."""
    norms = [value_norms(layer)[0].numpy() for layer in seen]
    return dict(zip(PARTS, (companded(first(seen)), np.stack(norms)), strict=True))


def stacked(scores: Scores) -> np.ndarray:
    """Scores as one array [M, L, H], M as in SCORES; NaN for those that were not measured."""
    blank = np.full_like(next(iter(scores.values())), np.nan)
    return np.stack([scores.get(name, blank) for name in SCORES])


def unstacked(array: np.ndarray) -> Scores:
    """The scores again, those that were measured."""
    return {name: values for name, values in zip(SCORES, array, strict=True) if not np.isnan(values).all()}


def page_prompt(
    name: str, labels: list[str], maps: list[dict[str, np.ndarray]], scores: list[Scores], last: list[AttentionMap]
) -> Prompt:
    """The page's part for one input: `maps` and `scores` of each step, and the vectors of the `last`."""
    patterns, norms = (np.stack([at_step[part] for at_step in maps]) for part in PARTS)
    blank = np.full(patterns.shape[1:3], np.nan)  # of what was not measured at a step
    metrics = dict.fromkeys(metric for at_step in scores for metric in at_step)
    over_steps = {metric: np.stack([at_step.get(metric, blank) for at_step in scores]) for metric in metrics}
    return Prompt(name, labels, patterns, norms, over_steps, vectors_of(last))


def scores_of(seen: list[AttentionMap], each: Input) -> Scores:
    """Every metric that applies, means over the batch."""
    repeated = each.ids if each.period is not None else None
    layers = [head_scores(layer.pattern, repeated) for layer in seen]
    return {name: np.stack([layer[name].mean(0).numpy() for layer in layers]) for name in layers[0]}


def tells(each: Input, metric: str) -> bool:
    """Whether this is the input on which the metric says most of a head: repeated tokens for what is defined on them,
    for all else a batch of held-out text."""
    return each.period is not None if metric in OF_REPEATS else not each.shown


def rows_of(scores: Scores, step: int, each: str) -> list[dict]:
    """Rows of heads.csv."""
    shape = next(iter(scores.values())).shape
    return [
        {"step": step, "input": each, "layer": layer, "head": head}
        | {name: float(values[layer, head]) for name, values in scores.items()}
        for layer, head in np.ndindex(*shape)
    ]


def limits(metric: str, values: np.ndarray) -> tuple[float, float]:
    """Between which scores the colours of a grid run: the same at every step, or, for what is measured once, as far as
    they go."""
    if metric.startswith("mean_distance"):
        return 0.0, float(HELD_OUT[1] / 2)
    if metric == "ov_copying":
        return -1.0, 1.0
    if metric in EFFECTS:
        most = float(np.abs(values).max()) or 1.0
        return (0.0 if metric == "importance" else -most), most
    return 0.0, 1.0


def summary(told: Scores) -> dict[str, float]:
    """What a chart over steps shows: the greatest and the mean score, and how many heads have formed."""
    numbers = {}
    for name, values in told.items():
        numbers[f"heads/{name}/max"], numbers[f"heads/{name}/mean"] = float(values.max()), float(values.mean())
        if name in FORMED:
            numbers[f"heads/{name}/count"] = int((values > FORMED[name]).sum())
    return numbers


def vectors_of(seen: list[AttentionMap]) -> dict[tuple[int, int], HeadVectors]:
    """What the page computes attention from anew, for each (layer, head) of the batch's first sequence."""
    vectors = {}
    for layer, maps in enumerate(seen):
        group = maps.q.size(1) // maps.k.size(1)
        for head in range(maps.q.size(1)):
            q, k, v = maps.q[0, head], maps.k[0, head // group], maps.v[0, head // group]
            vectors[layer, head] = HeadVectors(q.numpy(), k.numpy(), v.numpy(), maps.pattern[0, head].numpy())
    return vectors
