"""Draw attention maps, head scores and loss curves as PNG pictures.

A weight has the same colour in every picture: a square-root scale from 0 to 1 that is never fitted to the data. An
attention grid has the same size at every step, so that two steps side by side differ only where the model does.

A run draws many large attention grids, so they have a single channel of palette indices: 0 (black) to PAPER (white) are
greys, for text and its antialiased edges, and the others are the colours of weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from headwise.files import atomic_write

ROW_WIDTH = 1800  # greatest width in pixels of the maps of one layer together
CELL = (2, 11)  # least and greatest size in pixels of one weight
GAP, CAPTION, MARGIN = 14, 20, 14  # pixels
INK, FAINT = (30, 30, 36), (110, 110, 120)
PAPER = 63  # palette index of white
GREY, MASKED, HATCH, FRAME = 22, 58, 52, 48  # palette indices
BADGES = {  # metrics written above each map, where measured -> their short names
    "previous_token": "prev",
    "first_token": "first",
    "induction": "ind",
    "duplicate_token": "dup",
    "entropy": "entropy",
}
GRID_CELL = (58, 30)  # pixels of one head in a metric grid
TIMELINE_ROWS = 32  # greatest number of heads in a timeline
TICKS = (0, 0.1, 0.25, 0.5, 1)  # weights on colour scales
TRAIN_CURVE, MARKED_CURVE = {"lw": 0.8, "alpha": 0.6}, {"marker": "o", "ms": 3}  # styles of loss curves


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib and has glyphs for the signs of white space."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)  # the same pixels on every machine


@cache
def palette() -> np.ndarray:
    """Return [256, 3] uint8: greys from ink to white, then one hue from white to dark, monotone in lightness."""
    import matplotlib

    greys = np.linspace(INK, (255, 255, 255), PAPER + 1)
    colours = matplotlib.colormaps["Blues"](np.linspace(0, 1, 255 - PAPER))[:, :3] * 255
    return np.concatenate((greys, colours)).round().astype(np.uint8)


def palette_indices(weights: np.ndarray) -> np.ndarray:
    """Return the palette indices of weights, on the square-root scale from 0 to 1."""
    return (PAPER + 1 + (254 - PAPER) * np.sqrt(weights.clip(0, 1))).round().astype(np.uint8)


def map_pixels(pattern: np.ndarray, cell: int) -> np.ndarray:
    """Return a pattern [T, T] as palette indices [T*cell, T*cell], with masked cells hatched."""
    pixels = palette_indices(pattern).repeat(cell, axis=1).repeat(cell, axis=0)
    masked, hatched = _masked_pixels(len(pattern), cell)
    np.copyto(pixels, hatched, where=masked)
    return pixels


@cache
def _masked_pixels(length: int, cell: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which pixels of a map are masked, and their palette indices, both [T*cell, T*cell]."""
    masked = np.triu(np.ones((length, length), dtype=bool), 1).repeat(cell, axis=0).repeat(cell, axis=1)
    y, x = np.ogrid[: length * cell, : length * cell]
    return masked, np.where((x + y) % 6 == 0, HATCH, MASKED).astype(np.uint8)


def attention_grid(
    patterns: np.ndarray, labels: list[str], scores: Mapping[str, np.ndarray], title: str
) -> Image.Image:
    """Return every head's map in one picture: rows are layers, columns heads; in a map, rows are queries, columns keys.

    patterns [L, H, T, T]; labels, one for each token; scores, metric -> [L, H], of which those in BADGES are written
    above the maps. The size in pixels depends only on shapes, labels and metrics.
    """
    scores = {metric: scores[metric] for metric in BADGES if metric in scores}
    n_layer, n_head, length, _ = patterns.shape
    caption = {metric: f"{BADGES[metric]} " for metric in scores}
    caption_width = int(font(11).getlength("  ".join(f"{name}0.00" for name in caption.values()))) + 40
    cell = int(np.clip(max(ROW_WIDTH // n_head, caption_width) // length, *CELL))
    side = length * cell
    queries, keys = _axis_labels(labels, cell)
    column, row = max(side, caption_width) + GAP, CAPTION + side + GAP
    left, top = MARGIN + 26 + queries.width, MARGIN + 54
    width, height = left + n_head * column + MARGIN, top + n_layer * row + keys.height + MARGIN + 18
    picture = Image.new("L", (max(width, 560), height), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN - 4), title, 0, font(15))
    draw.text((MARGIN, MARGIN + 18), "row: query, column: key; hatched: masked, later than the query", GREY, font(11))
    _draw_scale(picture, draw, picture.width - MARGIN - 200, MARGIN)
    for layer in range(n_layer):
        y = top + layer * row + CAPTION
        name = Image.new("L", (int(font(12).getlength(f"layer {layer}")) + 1, sum(font(12).getmetrics())), PAPER)
        ImageDraw.Draw(name).text((0, 0), f"layer {layer}", 0, font(12))
        name = name.rotate(90, expand=True)
        picture.paste(name, (MARGIN, y + (side - name.height) // 2))
        picture.paste(queries, (left - queries.width, y))
        for head in range(n_head):
            x = left + head * column
            picture.paste(Image.fromarray(map_pixels(patterns[layer, head], cell)), (x, y))
            draw.rectangle((x - 1, y - 1, x + side, y + side), outline=FRAME)
            badges = [f"{caption[metric]}{score[layer, head]:.2f}" for metric, score in scores.items()]
            draw.text((x, y - 5), f"{layer}.{head}", 0, font(12), anchor="ls")
            draw.text((x + 36 + 7 * (len(f"{layer}{head}") - 2), y - 5), "  ".join(badges), GREY, font(11), anchor="ls")
    for head in range(n_head):
        x = left + head * column
        picture.paste(keys, (x, top + n_layer * row - GAP + 4))
        draw.text((x + side // 2, height - MARGIN), f"head {head}", 0, font(12), anchor="ms")
    picture.putpalette(palette().tobytes())
    return picture


def _axis_labels(labels: list[str], cell: int) -> tuple[Image.Image, Image.Image]:
    """Return the tokens along a map's left side and its bottom, for cells of `cell` pixels: every token if there is
    room, otherwise every second, third, ... Along the bottom they are upright if each is a single character."""
    texts = ["".join(c if has_glyph(c) else f"U+{ord(c):04X}" for c in label) for label in labels]
    texts = [text.replace("␣", "·") for text in texts]  # the glyph of ␣ would touch the line below
    texts = [text if len(text) <= 10 else text[:9] + "…" for text in texts]
    face, stride, side = font(max(8, min(cell, 11))), -(-9 // cell), len(labels) * cell
    width = 6 + max(int(face.getlength(text)) for text in texts)
    vertical, horizontal = Image.new("L", (width, side), PAPER), Image.new("L", (side, 16), PAPER)
    for i in range(0, len(labels), stride):
        middle = i * cell + cell / 2
        ImageDraw.Draw(vertical).text((width - 4, middle), texts[i], GREY, face, anchor="rm")
        ImageDraw.Draw(horizontal).text((middle, 0), texts[i], GREY, face, anchor="ma")
    upright = all(len(text) == 1 for text in texts)
    return vertical, horizontal if upright else vertical.transpose(Image.Transpose.ROTATE_90)


@cache
def has_glyph(char: str) -> bool:
    """Return whether the font has a glyph for a character; if not, it draws a box."""
    return char.isascii() or bytes(font(12).getmask(char)) != bytes(font(12).getmask("\U0010ffff"))


def _draw_scale(picture: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    """Draw the colour scale, 200 pixels wide, with its ticks."""
    picture.paste(Image.fromarray(np.tile(palette_indices(np.linspace(0, 1, 200) ** 2), (10, 1))), (x, y))
    draw.rectangle((x - 1, y - 1, x + 200, y + 10), outline=FRAME)
    for weight in TICKS:
        draw.text((x + 200 * weight**0.5, y + 14), f"{weight:g}", GREY, font(10), anchor="ma")


def metric_grid(values: np.ndarray, title: str, limits: tuple[float, float]) -> Image.Image:
    """Return scores [L, H] as a picture: rows are layers, columns heads, with each score written in its cell. The
    colours span the given limits, with two hues if these have different signs."""
    n_layer, n_head = values.shape
    width, height = GRID_CELL
    left, top = MARGIN + 52, MARGIN + 40
    size = left + n_head * width + MARGIN, top + n_layer * height + MARGIN
    picture = Image.new("RGB", (max(size[0], 260), size[1]), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN - 4), title, INK, font(14))
    for head in range(n_head):
        draw.text((left + (head + 0.5) * width, top - 5), f"head {head}", FAINT, font(11), anchor="ms")
    fills = score_colours(values, limits)
    for layer in range(n_layer):
        y = top + layer * height
        draw.text((left - 6, y + height / 2), f"layer {layer}", FAINT, font(11), anchor="rm")
        for head in range(n_head):
            fill, x = tuple(fills[layer, head].tolist()), left + head * width
            draw.rectangle((x, y, x + width - 2, y + height - 2), fill=fill)
            ink = INK if sum(fill) > 380 else (255, 255, 255)
            text = f"{values[layer, head]:.3g}" if abs(values[layer, head]) >= 10 else f"{values[layer, head]:.2f}"
            text = text.removeprefix("-") if float(text) == 0 else text
            draw.text((x + width / 2 - 1, y + height / 2), text, ink, font(12), anchor="mm")
    return picture


def score_colours(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Return colours [..., 3] of scores between the limits: white to dark blue, or red over white to blue if the limits
    have different signs."""
    import matplotlib

    low, high = limits
    fractions = np.clip((values - low) / (high - low), 0, 1)
    fills = matplotlib.colormaps["RdBu"](0.1 + 0.8 * fractions) if low < 0 else matplotlib.colormaps["Blues"](fractions)
    return (255 * fills[..., :3]).round().astype(np.uint8)


def head_timeline(
    scores: np.ndarray, steps: list[int], metric: str, threshold: float, losses: Mapping[str, list[tuple[int, float]]]
) -> Image.Image:
    """Return every head's score at the recorded steps as a picture: rows are heads sorted by their last score, columns
    steps, with a mark where a head first exceeds the threshold, and the loss curves above on the same axis.

    scores [S, L, H], between 0 and 1.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_head, n_steps = scores.shape[2], len(steps)
    flat = scores.reshape(n_steps, -1)
    order = np.argsort(-flat[-1], kind="stable")
    rows = order[:TIMELINE_ROWS]
    height = max(0.8, 0.24 * len(rows))  # of the grid of heads, in inches
    figure = Figure(figsize=(9.0, height + 2.65), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    curve, grid = figure.subplots(2, 1, sharex=True, height_ratios=[1.6, height])
    for name, points in losses.items():
        placed = [(float(np.interp(step, steps, range(n_steps))), y) for step, y in points if step <= steps[-1]]
        _draw_curve(curve, placed, name, TRAIN_CURVE if name == "train" else MARKED_CURVE)
    curve.set_ylabel("loss (nats)")
    curve.grid(alpha=0.25)
    if curve.lines:
        curve.legend(frameon=False)
    image = grid.imshow(flat[:, rows].T, aspect="auto", cmap="Blues", norm=matplotlib.colors.PowerNorm(0.5, 0, 1))
    for row, head in enumerate(rows):
        exceeds = np.flatnonzero(flat[:, head] > threshold)
        if len(exceeds):
            grid.plot(exceeds[0], row, marker="|", ms=11, mew=2.5, color="#d9480f")
    shown = f"{len(rows)} of {len(order)} heads" if len(rows) < len(order) else "all heads"
    marks = "marked where a head first exceeds" if (flat > threshold).any() else "no head exceeds"
    curve.set_title(f"{metric} of {shown}; {marks} {threshold:g}", fontsize=10)
    grid.set_yticks(range(len(rows)), [f"{head // n_head}.{head % n_head}" for head in rows], fontsize=8)
    stride = -(-n_steps // 14)
    grid.set_xticks(range(0, n_steps, stride), [str(step) for step in steps[::stride]], fontsize=8)
    grid.set(xlabel="optimizer step (recorded steps, evenly spaced)", ylabel="layer.head")
    figure.colorbar(image, ax=grid, ticks=TICKS, format="%g", fraction=0.03, pad=0.02)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def loss_curve(losses: Mapping[str, list[tuple[int, float]]], path: Path) -> None:
    """Write the losses, "train" and "val" -> (step, loss), as a PNG with one curve each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    _draw_curve(axes, losses["train"], "training, one step", TRAIN_CURVE)
    _draw_curve(axes, losses["val"], "validation", MARKED_CURVE)
    step, best = min(losses["val"], key=lambda point: point[1])
    axes.set_title(f"best validation loss {best:.4f}, at step {step}", fontsize=10)
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw_curve(axes: Any, points: Sequence[tuple[float, float]], label: str, style: dict[str, Any]) -> None:
    """Draw (step, loss) points as a line, if there are any."""
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **style)
