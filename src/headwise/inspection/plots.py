"""Pictures of attention and of training, as PNG.

The colour of a weight is the same in every picture ever drawn: a square-root scale from 0 to 1, never fitted to
the data, and a sheet has the same size at every step. So two steps side by side differ only where the model does.

Sheets, which are many and large, are drawn in one channel, whose values are places in a palette: from 0, the ink, to
PAPER they are greys, which text needs at its edges; from there on the colours of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from headwise.files import whole

SHEET_WIDTH = 1800  # pixels that the maps of one layer may fill together
CELL = (2, 11)  # least and greatest pixels for one weight
GAP, CAPTION, MARGIN = 14, 20, 14
INK, FAINT = (30, 30, 36), (110, 110, 120)
PAPER = 63  # places in the palette: white, and greys towards the ink
GREY, MASKED, HATCH, FRAME = 22, 58, 52, 48
BADGES = {  # what is written above a map, if it was measured
    "previous_token": "prev",
    "first_token": "first",
    "induction": "ind",
    "duplicate_token": "dup",
    "entropy": "entropy",
}
GRID_CELL = (58, 30)  # pixels of one head in a metric grid
TIMELINE_ROWS = 32  # heads in a timeline, at most


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has the signs for white space."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)  # the same pixels everywhere


@cache
def palette() -> np.ndarray:
    """[256, 3] uint8: from ink to white, then one hue from white to dark, monotone in lightness."""
    import matplotlib

    greys = np.linspace(INK, (255, 255, 255), PAPER + 1)
    colours = matplotlib.colormaps["Blues"](np.linspace(0, 1, 255 - PAPER))[:, :3] * 255
    return np.concatenate((greys, colours)).round().astype(np.uint8)


def shades(weights: np.ndarray) -> np.ndarray:
    """The places in the palette of weights: the square-root scale from 0 to 1."""
    return (PAPER + 1 + (254 - PAPER) * np.sqrt(weights.clip(0, 1))).round().astype(np.uint8)


def map_pixels(pattern: np.ndarray, cell: int) -> np.ndarray:
    """A pattern [T, T] as places in the palette [T*cell, T*cell], the future hatched."""
    pixels = shades(pattern).repeat(cell, axis=1).repeat(cell, axis=0)
    future, hatched = future_pixels(len(pattern), cell)
    np.copyto(pixels, hatched, where=future)
    return pixels


@cache
def future_pixels(length: int, cell: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the future is on a map, and how it looks, both [T*cell, T*cell]."""
    future = np.triu(np.ones((length, length), dtype=bool), 1).repeat(cell, axis=0).repeat(cell, axis=1)
    y, x = np.ogrid[: length * cell, : length * cell]
    return future, np.where((x + y) % 6 == 0, HATCH, MASKED).astype(np.uint8)


def attention_grid(
    patterns: np.ndarray, labels: list[str], scores: Mapping[str, np.ndarray], title: str
) -> Image.Image:
    """Every head's map on one sheet: rows are layers, columns heads; in a map, rows are queries, columns keys.

    patterns [n_layer, n_head, T, T]; labels, one for each token; scores, metric -> [n_layer, n_head], those of BADGES
    written above the maps. Equal shapes, labels and metrics give equal sizes, to the pixel.
    """
    scores = {metric: scores[metric] for metric in BADGES if metric in scores}
    n_layer, n_head, length, _ = patterns.shape
    caption = {metric: f"{BADGES[metric]} " for metric in scores}
    caption_width = int(font(11).getlength("  ".join(f"{name}0.00" for name in caption.values()))) + 40
    cell = int(np.clip(max(SHEET_WIDTH // n_head, caption_width) // length, *CELL))
    side = length * cell
    queries, keys = axis_labels(labels, cell)
    column, row = max(side, caption_width) + GAP, CAPTION + side + GAP
    left, top = MARGIN + 26 + queries.width, MARGIN + 54
    width, height = left + n_head * column + MARGIN, top + n_layer * row + keys.height + MARGIN + 18
    sheet = Image.new("L", (max(width, 560), height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 4), title, 0, font(15))
    draw.text((MARGIN, MARGIN + 18), "rows look at columns; hatched: masked, the future", GREY, font(11))
    draw_scale(sheet, draw, sheet.width - MARGIN - 200, MARGIN)
    for layer in range(n_layer):
        y = top + layer * row + CAPTION
        name = text_strip(f"layer {layer}", font(12)).rotate(90, expand=True)
        sheet.paste(name, (MARGIN, y + (side - name.height) // 2))
        sheet.paste(queries, (left - queries.width, y))
        for head in range(n_head):
            x = left + head * column
            sheet.paste(Image.fromarray(map_pixels(patterns[layer, head], cell)), (x, y))
            draw.rectangle((x - 1, y - 1, x + side, y + side), outline=FRAME)
            badges = [f"{caption[metric]}{score[layer, head]:.2f}" for metric, score in scores.items()]
            draw.text((x, y - 5), f"{layer}.{head}", 0, font(12), anchor="ls")
            draw.text((x + 36 + 7 * (len(f"{layer}{head}") - 2), y - 5), "  ".join(badges), GREY, font(11), anchor="ls")
    for head in range(n_head):
        x = left + head * column
        sheet.paste(keys, (x, top + n_layer * row - GAP + 4))
        draw.text((x + side // 2, height - MARGIN), f"head {head}", 0, font(12), anchor="ms")
    sheet.putpalette(palette().tobytes())
    return sheet


def axis_labels(labels: list[str], cell: int) -> tuple[Image.Image, Image.Image]:
    """The tokens down a map's left side and along its bottom, for cells of `cell` pixels: each token where there is
    room, else every second, third, ... Along the bottom they stand upright if they are single characters."""
    shown = ["".join(c if has_glyph(c) else f"U+{ord(c):04X}" for c in label) for label in labels]
    shown = [label.replace("␣", "·") for label in shown]  # the font's sign would touch the line below
    shown = [label if len(label) <= 10 else label[:9] + "…" for label in shown]
    face, every, side = font(max(8, min(cell, 11))), -(-9 // cell), len(labels) * cell
    room = 6 + max(int(face.getlength(label)) for label in shown)  # for the longest label
    down, upright = Image.new("L", (room, side), PAPER), Image.new("L", (side, 16), PAPER)
    for i in range(0, len(labels), every):
        middle = i * cell + cell / 2
        ImageDraw.Draw(down).text((room - 4, middle), shown[i], GREY, face, anchor="rm")
        ImageDraw.Draw(upright).text((middle, 0), shown[i], GREY, face, anchor="ma")
    single = all(len(label) == 1 for label in shown)
    return down, upright if single else down.transpose(Image.Transpose.ROTATE_90)


@cache
def has_glyph(char: str) -> bool:
    """Whether the font can draw a character, rather than a box in its place."""
    return char.isascii() or bytes(font(12).getmask(char)) != bytes(font(12).getmask("\U0010ffff"))


def text_strip(text: str, face: ImageFont.FreeTypeFont) -> Image.Image:
    """A line of text as a picture of its own."""
    strip = Image.new("L", (int(face.getlength(text)) + 1, sum(face.getmetrics())), PAPER)
    ImageDraw.Draw(strip).text((0, 0), text, 0, face)
    return strip


def draw_scale(sheet: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    """The colour scale, 200 pixels wide, with the weights written where they stand."""
    strip = np.tile(shades(np.linspace(0, 1, 200) ** 2), (10, 1))
    sheet.paste(Image.fromarray(strip), (x, y))
    draw.rectangle((x - 1, y - 1, x + 200, y + 10), outline=FRAME)
    for weight in (0.0, 0.1, 0.25, 0.5, 1.0):
        draw.text((x + 200 * weight**0.5, y + 14), f"{weight:g}", GREY, font(10), anchor="ma")


def metric_grid(values: np.ndarray, title: str, limits: tuple[float, float]) -> Image.Image:
    """A score for each head, [n_layer, n_head]: rows are layers, columns heads, the number written in, its colour from
    fixed limits (both hues if they span zero)."""
    n_layer, n_head = values.shape
    width, height = GRID_CELL
    left, top = MARGIN + 52, MARGIN + 40
    size = left + n_head * width + MARGIN, top + n_layer * height + MARGIN
    picture = Image.new("RGB", (max(size[0], 260), size[1]), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN - 4), title, INK, font(14))
    for head in range(n_head):
        draw.text((left + (head + 0.5) * width, top - 5), f"head {head}", FAINT, font(11), anchor="ms")
    fills = colours_of(values, limits)
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


def colours_of(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Colours [..., 3] for numbers between the limits: from white to dark, or if they span 0 from red over white to
    blue."""
    import matplotlib

    low, high = limits
    parts = np.clip((values - low) / (high - low), 0, 1)
    fills = matplotlib.colormaps["RdBu"](0.1 + 0.8 * parts) if low < 0 else matplotlib.colormaps["Blues"](parts)
    return (255 * fills[..., :3]).round().astype(np.uint8)


def head_timeline(
    scores: np.ndarray, steps: list[int], metric: str, formed: float, losses: Mapping[str, list[tuple[int, float]]]
) -> Image.Image:
    """How every head's score moved: rows are heads sorted by their last score, columns the steps at which they were
    looked at, the losses above on the same axis; a mark stands where a head first passes `formed`.

    scores [S, n_layer, n_head], between 0 and 1.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_head, n_steps = scores.shape[2], len(steps)
    flat = scores.reshape(n_steps, -1)
    order = np.argsort(-flat[-1], kind="stable")
    rows = order[:TIMELINE_ROWS]
    tall = 0.24 * len(rows)  # the grid's height in inches; below it 0.5, above it the curve
    size = (9.0, tall + 2.65)
    figure = Figure(figsize=size, dpi=110)
    canvas = FigureCanvasAgg(figure)

    def place(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        return x / size[0], y / size[1], width / size[0], height / size[1]

    grid, bar = figure.add_axes(place(0.75, 0.5, 7.3, tall)), figure.add_axes(place(8.2, 0.5, 0.2, tall))
    curve = figure.add_axes(place(0.75, tall + 0.7, 7.3, 1.6), sharex=grid)
    curve.tick_params(labelbottom=False)
    for name, points in losses.items():
        at = [(np.interp(step, steps, range(n_steps)), loss) for step, loss in points if step <= steps[-1]]
        if at:
            style = {"lw": 0.8, "alpha": 0.6} if name == "train" else {"marker": "o", "ms": 3}
            curve.plot(*zip(*at, strict=True), label=name, **style)
    curve.set_ylabel("loss (nats)")
    curve.grid(alpha=0.25)
    if curve.lines:
        curve.legend(frameon=False)
    shown = f"{len(rows)} of {len(order)} heads" if len(rows) < len(order) else f"{len(order)} heads"
    curve.set_title(f"{metric} of {shown}; marked where a head first passes {formed:g}", fontsize=10)
    image = grid.imshow(flat[:, rows].T, aspect="auto", cmap="Blues", norm=matplotlib.colors.PowerNorm(0.5, 0, 1))
    for row, head in enumerate(rows):
        passed = np.flatnonzero(flat[:, head] > formed)
        if len(passed):
            grid.plot(passed[0], row, marker="|", ms=11, mew=2.5, color="#d9480f")
    grid.set_yticks(range(len(rows)), [f"{head // n_head}.{head % n_head}" for head in rows], fontsize=8)
    every = -(-n_steps // 14)
    grid.set_xticks(range(0, n_steps, every), [str(step) for step in steps[::every]], fontsize=8)
    grid.set(xlabel="optimizer step, look by look", ylabel="layer.head")
    figure.colorbar(image, cax=bar, ticks=[0, 0.1, 0.25, 0.5, 1], format="%g")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def loss_curve(rows: list[dict[str, str]], path: Path) -> None:
    """Training and validation loss against steps, from the rows of metrics.csv."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    curves = (
        ("train_loss", "training, one batch", {"lw": 0.8, "alpha": 0.6}),
        ("val_loss", "validation, whole split", {"marker": "o", "ms": 3}),
    )
    for column, label, style in curves:
        points = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    step, best = min(((row["step"], float(row["val_loss"])) for row in rows if row["val_loss"]), key=lambda p: p[1])
    axes.set_title(f"best validation loss {best:.4f}, at step {step}", fontsize=10)
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    with whole(path) as temporary:
        figure.savefig(temporary, format="png")
