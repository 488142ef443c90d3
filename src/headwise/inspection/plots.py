"""Pictures of attention and of training, as PNG.

The colour of a weight is the same in every picture ever drawn: a square-root scale from 0 to 1, never fitted to
the data, and a sheet has the same size at every step. So two steps side by side differ only where the model does.
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
INK, FAINT, MASKED, HATCH = (30, 30, 36), (110, 110, 120), (238, 238, 240), (214, 214, 219)
BADGES = {"previous_token": "prev", "first_token": "first", "entropy": "entropy"}


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has the signs for white space."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)  # the same pixels everywhere


@cache
def colours() -> np.ndarray:
    """[256, 3] uint8: one hue from white to dark, monotone in lightness."""
    import matplotlib

    return (matplotlib.colormaps["Blues"](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)


def map_pixels(pattern: np.ndarray, cell: int) -> np.ndarray:
    """A pattern [T, T] as pixels [T*cell, T*cell, 3]: weights on the square-root scale, the future hatched."""
    pixels = colours()[(np.sqrt(pattern.clip(0, 1)) * 255).round().astype(int)]
    pixels = pixels.repeat(cell, axis=0).repeat(cell, axis=1)
    y, x = np.indices(pixels.shape[:2])
    future = x // cell > y // cell
    pixels[future] = MASKED
    pixels[future & ((x + y) % 6 == 0)] = HATCH
    return pixels


def contact_sheet(patterns: np.ndarray, labels: list[str], scores: Mapping[str, np.ndarray], title: str) -> Image.Image:
    """Every head's map on one sheet: rows are layers, columns heads; in a map, rows are queries, columns keys.

    patterns [n_layer, n_head, T, T]; labels, one for each token; scores, metric -> [n_layer, n_head], written
    above the maps. Equal shapes and labels give equal sizes, to the pixel.
    """
    n_layer, n_head, length, _ = patterns.shape
    cell = int(np.clip(SHEET_WIDTH // (n_head * length), *CELL))
    side = length * cell
    shown = [label if len(label) <= 10 else label[:9] + "…" for label in labels]
    text = font(max(8, min(cell, 11)))
    every = -(-9 // cell)  # label each token where there is room, else every second, third, ...
    upright = all(len(label) == 1 for label in shown)
    room = 6 + max(int(text.getlength(label)) for label in shown)  # for the longest label
    column, row = max(side, 190) + GAP, CAPTION + side + GAP
    left, top = MARGIN + 26 + room, MARGIN + 54
    width, height = left + n_head * column + MARGIN, top + n_layer * row + room + MARGIN + 18
    sheet = Image.new("RGB", (max(width, 560), height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 4), title, INK, font(15))
    draw.text((MARGIN, MARGIN + 18), "rows look at columns; hatched: masked, the future", FAINT, font(11))
    draw_scale(sheet, draw, sheet.width - MARGIN - 200, MARGIN)
    for layer in range(n_layer):
        y = top + layer * row + CAPTION
        turned(sheet, f"layer {layer}", font(12), INK, MARGIN, y + side // 2, anchor="middle")
        for i in range(0, length, every):
            draw.text((left - 4, y + i * cell + cell / 2), shown[i], FAINT, text, anchor="rm")
        for head in range(n_head):
            x = left + head * column
            sheet.paste(Image.fromarray(map_pixels(patterns[layer, head], cell)), (x, y))
            draw.rectangle((x - 1, y - 1, x + side, y + side), outline=(200, 200, 206))
            badges = [f"{BADGES[m]} {s[layer, head]:.2f}" for m, s in scores.items() if m in BADGES]
            draw.text((x, y - 5), f"{layer}.{head}", INK, font(12), anchor="ls")
            draw.text((x + 30, y - 5), "  ".join(badges), FAINT, font(11), anchor="ls")
    bottom = top + n_layer * row - GAP + 4
    for head in range(n_head):
        x = left + head * column
        for i in range(0, length, every):
            if upright:
                draw.text((x + i * cell + cell / 2, bottom), shown[i], FAINT, text, anchor="ma")
            else:
                turned(sheet, shown[i], text, FAINT, x + i * cell + cell // 2, bottom, anchor="top")
        draw.text((x + side // 2, height - MARGIN), f"head {head}", INK, font(12), anchor="ms")
    return sheet


def draw_scale(sheet: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    """The colour scale, 200 pixels wide, with the weights written where they stand."""
    strip = np.broadcast_to(colours()[np.linspace(0, 255, 200).astype(int)], (10, 200, 3))
    sheet.paste(Image.fromarray(np.ascontiguousarray(strip)), (x, y))
    draw.rectangle((x - 1, y - 1, x + 200, y + 10), outline=(200, 200, 206))
    for weight in (0.0, 0.1, 0.25, 0.5, 1.0):
        draw.text((x + 200 * weight**0.5, y + 14), f"{weight:g}", FAINT, font(10), anchor="ma")


def turned(
    sheet: Image.Image, label: str, face: ImageFont.FreeTypeFont, fill: tuple, x: int, y: int, anchor: str
) -> None:
    """Write a label turned by 90 degrees, read from below: its middle or its end (top) at y, centred on x."""
    ascent, descent = face.getmetrics()
    image = Image.new("L", (max(1, int(face.getlength(label))), ascent + descent))
    ImageDraw.Draw(image).text((0, 0), label, 255, face)
    image = image.rotate(90, expand=True)
    place = (x - image.width // 2, y if anchor == "top" else y - image.height // 2)
    sheet.paste(Image.new("RGB", image.size, fill), place, image)


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
