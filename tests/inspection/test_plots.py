"""Pictures: the same weight is the same colour in every one, and sizes never change."""

import numpy as np
from PIL import Image

from headwise.inspection.plots import (
    HATCH,
    MASKED,
    PAPER,
    attention_grid,
    has_glyph,
    head_timeline,
    loss_curve,
    map_pixels,
    metric_grid,
    palette,
    score_colours,
)


def pattern(sharp, length=7):
    raw = np.tril(np.exp(np.random.default_rng(0).normal(size=(2, 3, length, length)) * sharp))
    return raw / raw.sum(-1, keepdims=True)


def grid(sharp, labels="abc␣d⏎z"):
    maps = pattern(sharp)
    return attention_grid(maps, list(labels), {"entropy": maps[..., 1, 0]}, "title")


def test_palette_index_depends_on_the_weight_alone():
    for other in (0.0, 1.0):
        pixels = map_pixels(np.array([[other, 0.0], [0.25, 0.0]]), 5)
        assert (pixels[5:, :5] == PAPER + 1 + round(0.5 * 191)).all()


def test_masked_cells_are_not_the_colour_of_zero():
    pixels = map_pixels(np.array([[1.0, 0.0], [1.0, 0.0]]), 9)
    assert set(pixels[:9, 9:].ravel().tolist()) == {MASKED, HATCH}
    assert set(pixels[9:, 9:].ravel().tolist()) == {PAPER + 1}
    masked, hatch, zero = palette()[[MASKED, HATCH, PAPER + 1]].tolist()
    assert sum(hatch) + 60 < sum(masked) < sum(zero) - 10


def test_lightness_falls_all_along_the_scale():
    greys, colours = np.split(palette() @ [0.2126, 0.7152, 0.0722], [PAPER + 1])
    assert (np.diff(colours) <= 0).all()
    assert colours[0] - colours[-1] > 150
    assert (np.diff(greys) > 0).all()


def test_attention_grid_draws_each_weight_in_its_colour():
    maps = pattern(1.0)
    pixels = np.asarray(grid(1.0).convert("RGB"))
    for weight in maps[0, 0][np.tril_indices(7)]:
        colour = palette()[PAPER + 1 + round(191 * weight**0.5)]
        assert (pixels == colour).all(-1).sum() >= 81  # a whole cell


def test_attention_grid_size_depends_on_shapes_alone():
    assert grid(0.1).size == grid(5.0).size
    assert np.asarray(grid(0.1)).tobytes() != np.asarray(grid(5.0)).tobytes()


def test_attention_grid_of_long_labels_and_many_heads():
    maps = pattern(1.0)
    wide = attention_grid(maps, ["␣international"] * 7, {}, "bpe")
    assert wide.height > grid(1.0).height
    many = attention_grid(np.tile(maps, (6, 4, 1, 1)), list("abcdefg"), {}, "many")
    assert many.height > many.width / 2


def test_attention_grid_captions_do_not_overlap_the_next_map():
    """Two tokens make the narrowest maps: the white between one map's caption and the next must stay."""
    narrow = np.tile(np.array([[1.0, 0.0], [0.5, 0.5]]), (1, 3, 1, 1))
    scores = {name: np.ones((1, 3)) for name in ("entropy", "previous_token", "first_token")}
    pixels = np.asarray(attention_grid(narrow, ["a", "b"], scores, "t").convert("L"))
    rows = pixels[54 + 14 : 54 + 14 + 16]  # where the captions stand
    ink = np.flatnonzero((rows < 200).any(axis=0))
    gaps = np.diff(ink)
    assert (gaps > 12).sum() >= 2  # three captions apart


def test_characters_without_a_glyph_are_named():
    assert has_glyph("é")
    assert has_glyph("␣")
    assert not has_glyph("你")


def test_loss_curve_is_a_picture_of_the_losses(tmp_path):
    loss_curve({"train": [(1, 3.0), (2, 2.0)], "val": [(2, 2.5)]}, tmp_path / "loss.png")
    assert Image.open(tmp_path / "loss.png").size == (960, 540)


def test_metric_grid_writes_each_score_on_the_colour_of_its_value():
    values = np.array([[0.0, 1.0, 0.25], [0.5, 1.0, 0.0]])
    grid = metric_grid(values, "t", (0.0, 1.0))
    corner = lambda layer, head: grid.getpixel((66 + head * 58 + 2, 54 + layer * 30 + 2))  # noqa: E731
    white, dark = (tuple(colour) for colour in score_colours(np.array([0.0, 1.0]), (0.0, 1.0)).tolist())
    assert corner(0, 1) == corner(1, 1) == dark
    assert corner(0, 0) == corner(1, 2) == white != corner(0, 2)
    assert metric_grid(values * 0.1, "t", (0.0, 1.0)).size == grid.size


def test_metric_grid_has_a_hue_for_each_sign():
    red, white, blue = score_colours(np.array([-1.0, 0.0, 1.0]), (-1.0, 1.0)).tolist()
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert min(white) > 240


def test_head_timeline_sorts_heads_by_their_last_score_and_marks_the_step_where_one_forms():
    steps, scores = [0, 1, 2, 4], np.zeros((4, 1, 3))
    scores[2:, 0, 1] = 0.9
    plain = head_timeline(scores * 0.1, steps, "induction", 0.5, {"train": [(1, 3.0), (4, 2.0)], "val": []})
    marked = head_timeline(scores, steps, "induction", 0.5, {"train": [(1, 3.0), (4, 2.0)], "val": []})
    orange = np.array([0xD9, 0x48, 0x0F])
    found = np.argwhere((np.asarray(marked) == orange).all(-1))
    assert marked.size == plain.size
    assert len(found)
    assert not (np.asarray(plain) == orange).all(-1).any()
    row, column = found.mean(0)
    assert row < 0.7 * marked.height  # the first of three rows, though it is head 1
    assert 0.5 * marked.width < column < 0.7 * marked.width  # the third of four columns
