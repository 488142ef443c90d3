"""The attention page in a real browser: every control, every key, and every number against the tensors."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from headwise.inspection.page.page import Page, render
from tests.browser.views import HOSTILE, IDS, STEPS, labels_of, moments, patterns_of, view_of

NAMES = list(IDS)
QUANTUM = 0.004  # of the 8-bit square-root scale
SHOWN = {"\x07": "<U+0007>", "\u202e": "<U+202E>"}  # characters that would show nothing


@pytest.fixture(scope="module")
def seen():
    return moments()


@pytest.fixture(scope="module")
def text(seen):
    return render(view_of(seen))


@pytest.fixture
def page(visit, text):
    return visit(text)


def settle(page):
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def until(page, claim):
    """Wait until an expression is true. (Playwright's own waiting needs eval, which the page forbids.)"""
    for _ in range(100):
        if page.evaluate(claim):
            return
        page.evaluate("new Promise(done => setTimeout(done, 50))")
    raise AssertionError(f"never came: {claim}")


def state(page):
    settle(page)
    return page.evaluate("headwise.state")


def press(page, key):
    page.keyboard.press(key)
    return state(page)


def point(page, i, j):
    page.mouse.move(*page.evaluate(f"headwise.place({i}, {j})"))
    settle(page)


def value(page):
    settle(page)
    return float(page.get_attribute("#readout", "data-value"))


def choose(page, name, option):
    page.select_option(f"#{name}", str(option))
    settle(page)


def pick(page, group, option):
    page.locator(f"label:has([name={group}][value={option}])").click()
    settle(page)


def attention(seen, step, prompt, layer, head):
    return seen[NAMES[prompt]][step][layer].pattern[0, head]


# What is shown is what the model did.


def test_every_weight_is_the_tensors(page, seen):
    read = "([s, p, l, h, i, j]) => headwise.weight(s, p, l, h, i, j)"
    matrix = """([T, s, p, l, h]) => Array.from({length: T * T},
      (_, n) => headwise.weight(s, p, l, h, Math.floor(n / T), n % T))"""
    lengths = [len(IDS[name]) for name in NAMES]
    for s in range(3):
        for p, length in enumerate(lengths):
            for layer in range(2):
                for head in range(4):
                    weights = torch.tensor(page.evaluate(matrix, [length, s, p, layer, head])).reshape(length, length)
                    exact = s == 2 and (layer, head) in {(0, 1), (1, 2), (1, 3)}
                    off = (weights - attention(seen, s, p, layer, head)).abs().max()
                    assert off <= (1e-7 if exact else QUANTUM), (s, p, layer, head)
    assert page.evaluate(read, [0, 0, 0, 0, 2, 5]) == 0  # the future


def test_the_readout_under_the_pointer_is_the_tensors(page, seen):
    page.click("#head-1-0")
    for i, j in [(7, 3), (10, 0), (4, 4)]:
        point(page, i, j)
        weights = attention(seen, 2, 0, 1, 0)[i]
        assert value(page) == pytest.approx(float(weights[j]), abs=QUANTUM)
        assert float(page.inner_text("#value")) == pytest.approx(float(weights[j]), abs=QUANTUM + 0.0005)
        stored = (255 * weights[: i + 1].sqrt()).round()
        assert re.match(
            rf"{int((stored > stored[j]).sum()) + 1}(st|nd|rd|th) of {i + 1} keys", page.inner_text("#rank")
        )
        assert "stored in 8 bits, right to ±.004" in page.inner_text("#rank")
    page.click("#head-1-2")
    point(page, 9, 2)
    assert value(page) == pytest.approx(float(attention(seen, 2, 0, 1, 2)[9, 2]), abs=1e-7)
    assert page.inner_text("#rank").endswith("exact")


def test_the_future_is_masked_and_cannot_be_chosen(page):
    before = state(page)
    point(page, 2, 7)
    assert "masked" in page.inner_text("#readout")
    page.mouse.click(*page.evaluate("headwise.place(2, 7)"))
    assert state(page)["cellLocked"] is False
    assert (state(page)["query"], state(page)["key"]) == (before["query"], before["key"])


def test_steps_and_prompts_and_heads_change_the_numbers(page, seen):
    page.click("#head-0-3")
    choose(page, "prompt", 1)
    page.locator("#step").fill("1")
    point(page, 5, 2)
    assert value(page) == pytest.approx(float(attention(seen, 1, 1, 0, 3)[5, 2]), abs=QUANTUM)
    assert f"step {STEPS[1]}" in page.inner_text("#when")
    assert "train loss 2.700" in page.inner_text("#when")
    assert "val loss 3.100 (step 0)" in page.inner_text("#when")


def test_value_weighted_is_the_weight_times_the_norm_of_the_value(page, seen):
    page.click("#head-1-3")
    pick(page, "show", "value")
    point(page, 8, 5)
    maps = seen["text"][2][1]
    norm = float((maps.v[0, 1] @ maps.w_o[3]).norm(dim=-1)[5])
    assert value(page) == pytest.approx(float(maps.pattern[0, 3, 8, 5]) * norm, rel=1e-5)
    assert "|v W_O|" in page.inner_text("#why")


def test_scores_are_shown_where_q_and_k_are_stored_and_elsewhere_it_says_why(page, seen):
    page.click("#head-1-2")
    pick(page, "show", "scores")
    point(page, 8, 5)
    assert value(page) == pytest.approx(float(seen["text"][2][1].scaled_scores[0, 2, 8, 5]), rel=1e-5)
    page.click("#head-1-0")
    settle(page)
    assert "No scores of head 1.0" in page.inner_text("#why")
    page.locator("#step").fill("0")
    settle(page)
    assert "kept for the last step only, 110" in page.inner_text("#why")


def test_without_any_vectors_scores_are_off_and_it_says_why(visit, seen):
    page = visit(render(view_of(seen, heads=())), "#show=scores")
    assert page.locator("[name=show][value=scores]").is_disabled()
    assert "this page does not hold" in page.inner_text("#why")
    assert "holds no queries, keys and values" in page.inner_text("#unwalkable")


def test_hiding_the_first_token_renormalises_the_rest(page, seen):
    page.click("#head-0-1")
    page.check("#hide")
    point(page, 6, 4)
    row = attention(seen, 2, 0, 0, 1)[6]
    assert value(page) == pytest.approx(float(row[4] / row[1:].sum()), rel=1e-5)
    point(page, 6, 0)
    assert "hidden" in page.inner_text("#readout")


def test_a_map_in_the_grid_is_as_dark_as_its_weights(page, seen):
    pixels = """([l, h]) => { const c = document.querySelector(`#head-${l}-${h} canvas`);
      return [c.width, [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]]; }"""
    width, data = page.evaluate(pixels, [0, 2])
    assert width == 11
    lightness = torch.tensor(data).reshape(11, 11, 4)[..., :3].float() @ torch.tensor([0.2126, 0.7152, 0.0722])
    weights = attention(seen, 2, 0, 0, 2)
    rows, columns = torch.tril_indices(11, 11)
    order = weights[rows, columns].argsort()
    assert (lightness[rows, columns][order].diff() < 6).all()  # darker with weight, up to the rounding
    assert lightness[rows, columns].max() - lightness[rows, columns].min() > 60
    rows, columns = torch.triu_indices(11, 11, 1)
    assert lightness[rows, columns].unique().numel() == 1


@pytest.mark.parametrize(("scheme", "sign"), [("light", -1), ("dark", 1)])
def test_colours_are_monotone_in_lightness(visit, text, scheme, sign):
    shades = visit(text, color_scheme=scheme).evaluate("headwise.luminance()")
    steps = [sign * (b - a) for a, b in pairwise(shades)]
    assert min(steps) >= 0
    assert sum(steps) > 180


# The grid.


def test_hovering_a_head_previews_it_and_clicking_keeps_it(page):
    chosen = state(page)
    page.hover("#head-0-3")
    assert (state(page)["now"]["l"], state(page)["now"]["h"]) == (0, 3)
    assert page.inner_text("#map-title").startswith("Head 0.3")
    page.hover("h1")
    assert (state(page)["now"]["l"], state(page)["now"]["h"]) == (chosen["layer"], chosen["head"])
    page.click("#head-0-3")
    page.hover("#head-1-1")
    assert (state(page)["now"]["l"], state(page)["now"]["h"]) == (0, 3)  # locked
    assert page.get_attribute("#head-0-3", "aria-pressed") == "true"
    page.click("#head-0-3")  # lets go
    page.hover("#head-1-1")
    assert (state(page)["now"]["l"], state(page)["now"]["h"]) == (1, 1)


def test_heads_that_share_keys_stand_under_one_bracket(page):
    groups = page.locator(".group.shared")
    assert groups.count() == 4
    first = groups.nth(1).locator(".head").evaluate_all("nodes => nodes.map(n => n.id)")
    assert first == ["head-0-2", "head-0-3"]
    assert groups.nth(1).locator(".kv").inner_text() == "k,v 1"


def test_sorting_and_filtering_by_a_metric(page, seen):
    scores = patterns_of(seen["text"][2])[..., 1:, 0].mean(-1)  # first token
    names = [f"head-{n // 4}-{n % 4}" for n in scores.flatten().argsort(descending=True).tolist()]
    order = "nodes => nodes.filter(n => n.offsetParent !== null).map(n => n.id)"
    choose(page, "sort", "first_token")
    assert page.locator("#grid .head").evaluate_all(order) == names
    page.click("#up")
    settle(page)
    assert page.locator("#grid .head").evaluate_all(order) == names[::-1]
    middle = float(scores.flatten().sort().values[4:6].mean())
    choose(page, "metric", "first_token")
    page.evaluate(
        "x => { const e = document.querySelector('#least'); e.value = x; e.dispatchEvent(new Event('input')); }", middle
    )
    settle(page)
    kept = int((scores >= state(page)["least"]).sum())
    assert page.inner_text("#count") == f"{kept} of 8 heads"
    assert page.locator("#grid .head").evaluate_all(order) == names[:kept][::-1]
    choose(page, "sort", "layer")
    assert page.locator("#grid .head.out").count() == 8 - kept


def test_badges_name_what_a_head_does(page, seen):
    scores = patterns_of(seen["text"][2])[..., 1:, 0].mean(-1)
    for n, score in enumerate(scores.flatten().tolist()):
        badges = page.get_attribute(f"#head-{n // 4}-{n % 4} .badges", "title")
        assert (f"sink {score:.2f}".replace("0.", ".") in badges) == (score >= 0.3)
        assert "H " in badges
        assert "ind " not in badges  # does not apply
    assert (scores >= 0.3).any()


def test_a_metric_it_has_never_heard_of_is_shown_too(page):
    page.click("#head-1-1")
    settle(page)
    chip = page.locator("#chips [data-metric=a_new_metric]").inner_text()
    assert chip == "a new metric 7.00"  # entry 21 of 24, over 3
    choose(page, "sort", "a_new_metric")
    assert page.inner_text("#head-1-1 .badges").startswith("a_new_me… 7.00")


# Steps.


def test_play_runs_through_the_steps_and_stops_at_the_last(visit, text):
    page = visit(text, "#step=30")
    page.evaluate("""() => { window.seen = []; const play = document.querySelector("#play");
      const note = () => { const now = play.getAttribute("aria-pressed");
        if (now !== seen.at(-1)?.[0]) seen.push([now, headwise.state.step]); };
      new MutationObserver(note).observe(play, {attributeFilter: ["aria-pressed"]}); }""")
    page.click("#play")
    until(page, "seen.length === 2")
    page.keyboard.press(" ")  # the play button has the focus: its own key
    until(page, "seen.length === 4")
    assert page.evaluate("seen") == [["true", 1], ["false", 2], ["true", 0], ["false", 2]]
    page.evaluate("document.querySelector('#play').click(), document.querySelector('#play').click()")
    settle(page)
    assert page.get_attribute("#play", "aria-pressed") == "false"


def test_the_loss_curve_is_drawn(page):
    drawn = """() => { const c = document.querySelector("#loss");
      const {data} = c.getContext("2d").getImageData(0, 0, c.width, c.height);
      return data.filter((x, n) => n % 4 === 3 && x).length; }"""
    assert page.evaluate(drawn) > 1000
    assert "3.10 down to 1.90" in page.get_attribute("#loss", "aria-label")


def test_a_view_of_one_step_has_no_slider(visit, seen):
    last = {name: passes[-1:] for name, passes in seen.items()}
    page = visit(render(view_of(last, steps=[110], losses={})))
    assert not page.is_visible("#step")
    assert "the only one in this page" in page.inner_text("#when")
    assert page.evaluate("headwise.check") < 1e-5
    press(page, " ")
    press(page, ",")
    assert state(page)["step"] == 0


# The text.


def test_the_text_is_shaded_by_what_the_token_reads_and_by_who_reads_it(page, seen):
    page.click("#head-1-2")
    weights = attention(seen, 2, 0, 1, 2)
    page.hover("#token-8")
    settle(page)
    titles = page.locator(".token").evaluate_all("nodes => nodes.map(n => n.title)")
    assert [float(title.split(": ")[1]) for title in titles[:9]] == pytest.approx(weights[8, :9].tolist(), abs=0.0006)
    assert titles[9:] == ["9", "10"]
    assert page.locator("#arcs path").count() <= 4
    best = int(weights[8, :9].argmax())
    assert f"{float(weights[8, best]):.2f}" in page.inner_text("#top")
    pick(page, "flip", "read")
    page.hover("#token-3")
    settle(page)
    titles = page.locator(".token").evaluate_all("nodes => nodes.map(n => n.title)")
    assert [float(title.split(": ")[1]) for title in titles[3:]] == pytest.approx(weights[3:, 3].tolist(), abs=0.0006)
    assert "is read most by" in page.inner_text("#top")


def test_clicking_a_token_locks_it(page):
    page.click("#token-4")
    page.hover("#token-6")
    assert (state(page)["now"]["i"], state(page)["cellLocked"]) == (4, True)
    page.focus("#token-4")
    press(page, " ")
    assert state(page)["cellLocked"] is False


# Step through.


@pytest.mark.parametrize(("kind", "position"), [("softmax", "rotary"), ("relu", "rotary"), ("softmax", "alibi")])
def test_the_step_through_computes_what_torch_computes(visit, kind, position):
    seen = moments(kind, position=position)
    page = visit(render(view_of(seen, normalize=kind)), "#layer=1&head=3&query=7&key=2&tab=walk")
    maps = seen["text"][2][1]
    q, k, v = maps.q[0, 3, 7].double(), maps.k[0, 1].double(), maps.v[0, 1].double()
    dots = k @ q
    bias = 2.0**-8 * (torch.arange(11) - 7) if position == "alibi" else torch.zeros(11)  # of the last of four heads
    masked = (dots / math.sqrt(10) + bias).masked_fill(torch.arange(11) > 7, -math.inf)
    raw = masked.relu() if kind == "relu" else (masked - masked.max()).exp()
    weights = raw / 8 if kind == "relu" else masked.softmax(0)
    expected = {"dots": dots, "scaled": dots / math.sqrt(10), "masked": masked, "raw": raw, "weights": weights}
    for stage, column in [(1, "dots"), (2, "scaled"), (3, "masked"), (4, "raw"), (4, "weights")]:
        page.click(f"[data-stage='{stage}']")
        settle(page)
        cells = page.locator(f"#keys td[data-column={column}]")
        found = cells.evaluate_all("nodes => nodes.map(n => Number(n.dataset.value))")
        assert found == pytest.approx(expected[column].tolist(), abs=1e-9)
        shown = [float(x.replace("−", "-").replace("∞", "inf")) for x in cells.all_inner_texts()]
        assert shown == pytest.approx(expected[column].tolist(), abs=6e-5)
    assert ("First add the bias of the position" in page.inner_text("#explanation")) is False
    page.click("[data-stage='3']")
    settle(page)
    assert ("First add the bias of the position" in page.inner_text("#explanation")) == (position == "alibi")
    walked = page.evaluate("headwise.walk(0, 1, 3, 7)")
    assert walked["z"] == pytest.approx((weights @ v).tolist(), abs=1e-9)
    assert walked["z"] == pytest.approx(maps.z[0, 3, 7].tolist(), abs=1e-5)
    assert torch.tensor(walked["running"]) == pytest.approx((weights[:, None] * v).cumsum(0), abs=1e-6)
    page.click("[data-stage='6']")
    settle(page)
    z = [float(x) for x in page.inner_text("#result").removeprefix("z = [").rstrip("]").replace("−", "-").split(", ")]
    assert z == pytest.approx(maps.z[0, 3, 7].tolist(), abs=6e-5)
    assert page.evaluate("headwise.check") < 1e-5
    assert "differ from the model's by at most" in page.inner_text("#check")


def test_stages_go_forth_and_back_and_w_steps_through_them(page):
    in_sight = "(({ top, bottom }) => top > 0 && bottom < innerHeight)(explanation.getBoundingClientRect())"
    page.click("#head-0-1")
    press(page, "w")
    until(page, in_sight)  # the page scrolls to the explanation
    assert page.locator("#keys thead th").count() == 2
    for stage in range(1, 7):
        page.click("#next")
        assert state(page)["stage"] == stage
    assert page.locator("#next").is_disabled()
    assert page.locator("#keys thead th").count() == 10
    page.click("#previous")
    assert state(page)["stage"] == 5
    until(page, in_sight)  # otherwise w would scroll to it
    press(page, "w")
    assert state(page)["stage"] == 6
    press(page, "w")
    assert state(page)["stage"] == 0
    assert page.locator("#previous").is_disabled()
    assert "−∞" not in page.inner_text("#keys")


def test_the_mask_is_shown_as_minus_infinity(visit, text):
    page = visit(text, "#layer=1&head=2&query=4&stage=3")
    later = page.locator("#keys tr.later td[data-column=masked]").all_inner_texts()
    assert later == ["−∞", "−∞", "−∞"]
    assert "3 more later tokens, all −∞" in page.inner_text("#keys")


def test_the_example_follows_the_arrow_keys(visit, text, seen):
    page = visit(text, "#layer=1&head=2&query=6&key=3&stage=4")
    press(page, "ArrowRight")
    weight = float(attention(seen, 2, 0, 1, 2)[6, 4])
    assert f"{weight:.4f}" in page.inner_text("#explanation")


def test_a_head_without_vectors_says_why_and_leads_to_those_with(page):
    page.click("#head-0-2")
    settle(page)
    assert not page.is_visible("#walk")
    assert "Head 0.2 cannot be stepped through" in page.inner_text("#unwalkable")
    page.click("[data-go='1.3']")
    assert (state(page)["layer"], state(page)["head"]) == (1, 3)
    assert page.is_visible("#walk")
    press(page, ",")
    assert "last step only" in page.inner_text("#unwalkable")
    page.click("[data-go=last]")
    assert state(page)["step"] == 2
    assert page.is_visible("#walk")


# Compare.


def compared(page):
    settle(page)
    numbers = [page.get_attribute(f"#caption-{x} b[data-value]", "data-value") for x in "abd"]
    return [float(number) for number in numbers]


def test_two_steps_and_two_heads_are_compared(visit, text, seen):
    page = visit(text, "#tab=compare&layer=1&head=1&query=8&key=2&locked=cell")
    choose(page, "with-step", 1)
    a, b = (float(attention(seen, s, 0, 1, 1)[8, 2]) for s in (2, 1))
    assert compared(page) == pytest.approx([a, b, b - a], abs=2 * QUANTUM)
    pick(page, "mode", "heads")
    choose(page, "with-head", "0.3")
    b = float(attention(seen, 2, 0, 0, 3)[8, 2])
    assert compared(page) == pytest.approx([a, b, b - a], abs=2 * QUANTUM)
    difference = attention(seen, 2, 0, 0, 3) - attention(seen, 2, 0, 1, 1)
    assert f"{float(difference.abs().max()):.2f}"[:3] in page.inner_text("#compare-summary")
    page.locator("#map-d").hover(position={"x": 3, "y": 3})
    assert compared(page)[2] == pytest.approx(b - a, abs=2 * QUANTUM)  # locked
    press(page, "Escape")
    page.locator("#map-d").hover(position={"x": 5, "y": 5})
    assert compared(page) == [1, 1, 0]


def test_two_runs_are_compared_through_a_file(visit, text, seen, tmp_path):
    second = moments(seed=5)
    file = tmp_path / "other.html"
    file.write_text(render(view_of(second, title="the <i>other</i> run", steps=[0, 40, 220])), encoding="utf-8")
    page = visit(text, "#tab=compare&mode=runs&layer=1&head=2&query=9&key=4")
    assert "goes nowhere" in page.inner_text("#compare-summary")
    page.set_input_files("#with-file", file)
    page.wait_for_selector("#map-b", state="visible")
    a, b = float(attention(seen, 2, 0, 1, 2)[9, 4]), float(attention(second, 2, 0, 1, 2)[9, 4])
    assert compared(page) == pytest.approx([a, b, b - a], abs=1e-6)
    assert "the <i>other</i> run, step 220" in page.inner_text("#caption-b")
    choose(page, "with-step", 1)
    assert compared(page)[1] == pytest.approx(float(attention(second, 1, 0, 1, 2)[9, 4]), abs=QUANTUM)
    wrong = tmp_path / "wrong.html"
    wrong.write_text("<p>hello</p>")
    page.set_input_files("#with-file", wrong)
    until(page, "document.querySelector('#compare-summary').textContent.includes('not a page like this one')")
    others = view_of(second)
    relabelled = [replace(prompt, labels=["x"] * len(prompt.labels)) for prompt in others.prompts]
    file.write_text(render(replace(others, prompts=relabelled)), encoding="utf-8")
    page.set_input_files("#with-file", file)
    until(page, "document.querySelector('#compare-summary').textContent.includes('no prompt of the same tokens')")


def test_one_row_as_a_table(visit, text, seen):
    page = visit(text, "#tab=table&layer=1&head=3&query=6")
    column = "nodes => nodes.map(n => Number(n.dataset.value))"
    weights = attention(seen, 2, 0, 1, 3)[6, :7]
    assert page.locator("#row [data-column=weight]").evaluate_all(column) == pytest.approx(weights.tolist(), abs=1e-7)
    scores = page.locator("#row [data-column='q·k/√d']").evaluate_all(column)
    assert scores == pytest.approx(seen["text"][2][1].scaled_scores[0, 3, 6, :7].tolist(), rel=1e-5)
    page.check("#ranked")
    settle(page)
    found = page.locator("#row [data-column=weight]").evaluate_all(column)
    assert found == pytest.approx(weights.sort(descending=True).values.tolist(), abs=1e-7)


# Keys and state.


def test_every_key_does_what_the_help_says(visit, text):
    page = visit(text, "#layer=0&head=3&query=5&key=2&step=30")
    assert press(page, "ArrowDown")["query"] == 6
    assert press(page, "ArrowUp")["query"] == 5
    assert press(page, "ArrowRight")["key"] == 3
    assert press(page, "ArrowLeft")["key"] == 2
    assert press(page, "]")["head"] == 0  # round the end
    assert press(page, "[")["head"] == 3
    assert press(page, "}")["layer"] == 1
    assert press(page, "{")["layer"] == 0
    assert press(page, ".")["step"] == 2
    assert press(page, ".")["step"] == 2
    assert press(page, ",")["step"] == 1
    locked = press(page, "Enter")
    assert locked["headLocked"]
    assert locked["cellLocked"]
    assert page.inner_text("#lock") == "Unlock head and cell"
    unlocked = press(page, "Escape")
    assert not unlocked["headLocked"]
    assert not unlocked["cellLocked"]
    press(page, " ")
    assert page.get_attribute("#play", "aria-pressed") == "true"
    press(page, " ")
    assert page.get_attribute("#play", "aria-pressed") == "false"
    press(page, "?")
    assert page.is_visible("#help")
    press(page, "]")  # nothing behind the help moves
    press(page, "Escape")
    assert not page.is_visible("#help")
    assert state(page)["head"] == 3
    page.click("#help-open")
    page.click("#help-close")
    for _ in range(9):
        press(page, "ArrowUp")
    assert (state(page)["query"], state(page)["key"]) == (0, 0)


def test_a_control_in_focus_keeps_its_own_keys(page):
    before = state(page)
    page.focus("#step")
    assert press(page, "ArrowLeft")["step"] == 1
    assert state(page)["query"] == before["query"]
    page.focus("#sort")
    assert press(page, ".")["step"] == 1
    page.focus("#tab-walk")
    assert press(page, "ArrowRight")["tab"] == "compare"
    assert page.is_visible("#panel-compare")
    assert not page.is_visible("#panel-walk")
    page.click("#tab-table")
    settle(page)
    assert page.is_visible("#panel-table")


def test_clicking_a_cell_locks_it_until_escape(page):
    page.mouse.click(*page.evaluate("headwise.place(6, 1)"))
    point(page, 9, 5)
    assert (state(page)["now"]["i"], state(page)["now"]["j"]) == (6, 1)
    press(page, "Escape")
    point(page, 9, 5)
    assert (state(page)["now"]["i"], state(page)["now"]["j"]) == (9, 5)
    page.click("#lock")
    assert state(page)["cellLocked"]
    page.click("#lock")
    assert not state(page)["cellLocked"]


def test_the_hash_restores_what_was_seen(visit, text):
    page = visit(text)
    choose(page, "prompt", 1)
    page.click("#head-1-1")
    page.mouse.click(*page.evaluate("headwise.place(5, 3)"))
    pick(page, "show", "value")
    page.check("#hide")
    choose(page, "sort", "entropy")
    page.click("#up")
    choose(page, "metric", "entropy")
    page.locator("#step").fill("1")
    page.click("#tab-compare")
    pick(page, "mode", "heads")
    choose(page, "with-head", "1.2")
    pick(page, "flip", "read")
    until(page, "location.hash.includes('flip=read')")
    hash, before = page.evaluate("location.hash"), state(page)
    assert state(visit(text, hash)) == before


@pytest.mark.parametrize(
    "hash",
    [
        "#prompt=99&step=abc&layer=-1&head=1e9&query=11&key=NaN&stage=7&show=all&tab=__proto__&sort=constructor",
        "#%E0%A4%A&&&===;%00<script>alert(1)</script>",
        "#metric=toString&least=Infinity&mode=&locked=&walk=maybe&withStep=1.5&query=99999999999999999999",
    ],
)
def test_a_nonsense_hash_is_survived(visit, text, hash):
    assert state(visit(text, hash)) | {"ranked": False} == state(visit(text))


def test_it_starts_with_the_most_telling_head_that_can_be_stepped_through(page, seen):
    scores = patterns_of(seen["text"][2]).diagonal(-1, -2, -1).mean(-1)  # previous token; no other is known here
    best = max([(0, 1), (1, 2), (1, 3)], key=lambda at: float(scores[at]))
    assert (state(page)["layer"], state(page)["head"]) == best
    assert page.is_visible("#walk")


def test_start_is_where_the_page_starts_and_the_hash_wins(visit, seen):
    start = {"prompt": "repeats", "step": 30, "layer": 1, "head": 2, "query": 4, "walk": True, "stage": 2}
    text = render(view_of(seen, start=start))
    first = state(visit(text))
    assert (first["prompt"], first["step"], first["layer"], first["head"], first["query"]) == (1, 1, 1, 2, 4)
    assert (first["tab"], first["stage"]) == ("walk", 2)
    assert state(visit(text, "#step=110&query=3"))["now"] | {"j": 0} == {"p": 1, "s": 2, "l": 1, "h": 2, "i": 3, "j": 0}


def test_a_page_at_the_newest_step_goes_to_newer_ones_when_it_is_reloaded(visit, text, seen, tmp_path):
    older = {name: passes[:2] for name, passes in seen.items()}
    page = visit(render(view_of(older, steps=STEPS[:2])))
    until(page, "location.hash.includes('layer=')")
    assert state(page)["step"] == 1
    (tmp_path / "view.html").write_text(text, encoding="utf-8")
    page.reload()
    page.evaluate("headwise.ready")
    assert state(page)["step"] == 2


def test_a_page_without_width_draws_without_error(visit, text):
    page = visit(text)
    page.evaluate("document.getElementById('mapbox').style.width = '0px'")
    page.evaluate("dispatchEvent(new Event('resize'))")
    page.evaluate("new Promise(done => setTimeout(done, 300))")
    assert page.evaluate("document.getElementById('mapbox').clientWidth") == 0


def test_the_hash_can_change_under_the_page(page):
    page.evaluate("location.hash = '#layer=0&head=2&query=3&key=1'")
    until(page, "headwise.state.query === 3")
    assert (state(page)["layer"], state(page)["head"], state(page)["key"]) == (0, 2, 1)


# Safety, size, surroundings.


def test_hostile_tokens_and_titles_stay_text(page):
    expected = [SHOWN.get(label, label) for label in HOSTILE]
    assert page.locator(".token").all_text_contents() == expected
    assert page.inner_text("#title") == "runs/<b>small</b> & co"
    for tab in ("walk", "compare", "table"):
        page.click(f"#tab-{tab}")
        page.focus("#over")
        for key in ["ArrowUp", "ArrowDown"][tab == "compare"], "ArrowRight":  # every label in every place
            for _ in HOSTILE:
                press(page, key)
    assert page.locator("img, #app b > b, #app script").count() == 0
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0


def test_what_was_left_out_is_said(visit, seen):
    page = visit(render(view_of(seen), max_bytes=1000))
    notice = page.inner_text("#notice")
    assert "1 of 3 steps between the first and the last" in notice
    assert "q, k and v of 6 of 6 heads" in notice
    assert "0.001 MB" in notice
    assert "all the same" in notice  # even so it is larger


def test_nothing_is_said_where_nothing_was_left_out(page):
    assert not page.is_visible("#notice")


def test_it_works_in_a_sandboxed_iframe(visit, text):
    page = visit(f"<!doctype html><body>{Page(text, '')._repr_html_()}", wait=False)
    frame = page.frames[1]
    frame.wait_for_selector("#head-1-1")
    frame.click("#head-1-1")
    page.keyboard.press(",")
    until(frame, "headwise.state.step === 1")
    page.keyboard.press("}")
    assert frame.evaluate("headwise.state.layer") == 0
    frame.click("#help-open")
    frame.click("#help-close")
    frame.evaluate("new Promise(done => setTimeout(done, 300))")  # the hash's turn
    assert frame.locator("iframe").count() == 0


@pytest.mark.parametrize("tab", ["walk", "compare", "table"])
def test_a_phone_scrolls_in_one_direction(visit, text, tab):
    page = visit(text, f"#tab={tab}&layer=1&head=2&stage=6", viewport={"width": 390, "height": 844}, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.tap("#head-0-1")
    assert state(page)["headLocked"]
    page.locator("#over").scroll_into_view_if_needed()
    page.touchscreen.tap(*page.evaluate("headwise.place(7, 2)"))
    assert (state(page)["query"], state(page)["key"]) == (7, 2)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_reduced_motion_stills_the_page(visit, text):
    still, moving = (visit(text, "#step=30", reduced_motion=motion) for motion in ("reduce", "no-preference"))
    duration = "getComputedStyle(document.querySelector('.head')).transitionDuration"
    assert still.evaluate(duration) == "0s"
    assert moving.evaluate(duration) != "0s"
    still.click("#play")
    still.wait_for_timeout(600)
    assert state(still)["step"] == 1  # slower


def test_the_dark_scheme_is_dark(visit, text):
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    page = visit(text, color_scheme="dark")
    assert page.evaluate(paper) == "rgb(18, 21, 27)"
    page.emulate_media(color_scheme="light")
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    settle(page)
    shades = page.evaluate("headwise.luminance()")
    assert shades[0] > shades[-1]


def test_without_scripts_the_numbers_are_readable(visit, text, seen):
    page = visit(text, wait=False, java_script_enabled=False)
    assert "need scripts" in page.inner_text("noscript")
    page.click("summary")
    value = float(patterns_of(seen["text"][2])[0, 3, 1:, 0].mean())
    assert f"{value:.3g}" in page.locator("#summary table").first.inner_text()
    assert not page.is_visible("#app")


def test_every_control_has_a_name(page):
    for tab in ("walk", "compare", "table"):
        page.click(f"#tab-{tab}")
        settle(page)
        nameless = page.evaluate("""() => [...document.querySelectorAll("button, select, input, [role], [tabindex]")]
          .filter(e => e.offsetParent && e.role !== "status")
          .filter(e => !(e.ariaLabel || e.textContent.trim() || e.closest("label")?.textContent.trim()))
          .map(e => e.outerHTML)""")
        assert nameless == []


def test_labels_are_those_of_the_prompt(page):
    choose(page, "prompt", 1)
    assert page.locator(".token").all_text_contents() == labels_of("repeats")
    assert page.locator("#prompt option").all_inner_texts() == ["text (11 tokens)", "repeats (7 tokens)"]


def test_what_the_tests_read_cannot_be_written(page):
    page.evaluate("headwise.state.layer = 9; try { headwise.weight = null } catch {}; headwise = null")
    assert page.evaluate("typeof headwise.weight") == "function"
    assert state(page)["layer"] < 2


# A text that the model wrote, and a walk that was asked for.


def test_what_the_model_wrote_is_underlined_and_explained(visit, seen):
    view = view_of(seen)
    view.prompts[0].generated_from, view.prompts[0].note = 4, "These are <b>some</b> of the tokens."
    page = visit(render(view))
    fresh = page.evaluate("[...document.querySelectorAll('.token.fresh')].map((token) => Number(token.dataset.token))")
    assert fresh == list(range(4, len(view.prompts[0].labels)))
    assert page.is_visible("#fresh")
    assert page.inner_text("#note") == "These are <b>some</b> of the tokens."
    choose(page, "prompt", 1)
    assert page.is_hidden("#fresh")
    assert page.inner_text("#note") == ""


def test_a_walk_that_was_asked_for_is_in_sight(visit, seen):
    def top_of_the_steps(start):
        page = visit(render(view_of(seen, start=start)))
        settle(page)
        return page.evaluate("document.getElementById('tab-walk').getBoundingClientRect().top / innerHeight")

    assert top_of_the_steps({}) > 1
    assert 0 <= top_of_the_steps({"layer": 1, "head": 2, "query": 5, "walk": 1}) < 0.9
