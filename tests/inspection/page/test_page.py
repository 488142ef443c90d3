"""The page as text: its data decodes, texts are escaped, what does not fit the budget is left out."""

import base64
import pickle
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from headwise.inspection.page.page import Page, compand, render
from tests.browser.views import HOSTILE, STEPS, data_of, moments, patterns_of, view_of


@pytest.fixture(scope="module")
def seen():
    return moments()


def array(data, place, dtype):
    return np.frombuffer(zlib.decompress(base64.b64decode(data["blobs"][place])), dtype)


def unpacked(data, prompt):
    """uint8 [S, L, H, T(T+1)/2], as it went in."""
    length = len(prompt["labels"])
    shape = len(data["steps"]), prompt["layers"], prompt["heads"], length * (length + 1) // 2
    return array(data, prompt["patterns"], np.uint8).reshape(shape).cumsum(0, dtype=np.uint8)


def test_companding_keeps_the_lower_triangle_to_four_thousandths():
    pattern = torch.rand(3, 5, 7, 7).softmax(-1).tril().numpy()
    packed = compand(pattern)
    assert packed.shape == (3, 5, 28)
    assert packed.dtype == np.uint8
    rows, columns = np.tril_indices(7)
    assert np.abs((packed / 255.0) ** 2 - pattern[..., rows, columns]).max() < 0.004
    assert compand(np.array([[0.25, 0.9], [1.0, 0.04]])).tolist() == [round(255 * 0.5), 255, round(255 * 0.2)]


def test_page_data_decodes_to_the_arrays_of_the_view(seen):
    view = view_of(seen)
    data = data_of(render(view))
    assert data["steps"] == STEPS
    assert data["stored"]["steps"] == [3, 3]
    assert data["stored"]["heads"] == [6, 6]
    for given, packed in zip(view.prompts, data["prompts"], strict=True):
        assert packed["labels"] == given.labels
        assert np.array_equal(unpacked(data, packed), given.patterns)
        assert np.array_equal(array(data, packed["value_norms"], "<f4"), given.value_norms.ravel())
        assert packed["scores"]["entropy"] == pytest.approx(given.scores["entropy"].ravel(), rel=1e-4)
        assert set(packed["scores"]["induction"]) == {None}
        for one in packed["vectors"]:
            maps, head, length = given.maps[one["layer"]], one["head"], len(given.labels)
            for name, of_head in {"q": maps.q[0, head], "k": maps.k[0, head // 2], "v": maps.v[0, head // 2]}.items():
                assert np.array_equal(array(data, one[name], "<f4").reshape(length, -1), of_head)
            assert np.array_equal(array(data, one["pattern"], "<f4"), maps.pattern[0, head][np.tril_indices(length)])


def test_page_stores_shared_keys_and_values_once(seen):
    first = data_of(render(view_of(seen)))["prompts"][0]["vectors"]
    assert (first[1]["k"], first[1]["v"]) == (first[2]["k"], first[2]["v"])  # heads 1.2 and 1.3
    assert first[1]["q"] != first[2]["q"]


def test_page_escapes_titles_and_labels(seen):
    page = render(view_of(seen, title="</script><script>alert(1)</script>\u2028\ud800"))
    page.encode("utf-8")
    assert page.count("</script>") == 2  # the data's and the page's own
    assert page.count("<img") == 0
    assert "alert(1)</script>" not in page
    assert "\u2028" not in page[page.index('id="data"') :]
    assert data_of(page)["prompts"][0]["labels"] == HOSTILE


def test_page_title_like_a_placeholder_stays_a_title(seen):
    page = render(view_of(seen, title="{{data}} {{summary}}"))
    assert "<title>{{data}} {{summary}} · attention</title>" in page


def test_page_over_budget_leaves_out_steps_first(seen):
    view = view_of(seen)
    many = [np.random.default_rng(0).permuted(np.repeat(p.patterns[:1], 41, 0), axis=-1) for p in view.prompts]
    prompts = [
        replace(
            p,
            patterns=patterns,
            value_norms=np.repeat(p.value_norms[:1], 41, 0),
            scores={n: np.repeat(x[:1], 41, 0) for n, x in p.scores.items()},
        )
        for p, patterns in zip(view.prompts, many, strict=True)
    ]
    view = replace(view, steps=list(range(0, 410, 10)), prompts=prompts)
    least, most = len(render(replace(view, steps=[0], prompts=[cut(p, 1) for p in prompts]))), len(render(view))
    page = render(view, max_bytes=(least + most) // 2)
    data = data_of(page)
    assert len(page) <= (least + most) // 2
    assert 2 < len(data["steps"]) < 41
    assert (data["steps"][0], data["steps"][-1]) == (0, 400)
    assert data["stored"]["steps"] == [len(data["steps"]), 41]
    assert data["stored"]["heads"] == [6, 6]
    kept = [view.steps.index(step) for step in data["steps"]]
    assert np.array_equal(unpacked(data, data["prompts"][0]), many[0][kept])


def cut(prompt, count):
    scores = {name: values[:count] for name, values in prompt.scores.items()}
    return replace(prompt, patterns=prompt.patterns[:count], value_norms=prompt.value_norms[:count], scores=scores)


def test_page_over_budget_leaves_out_vectors_of_the_last_heads_next(seen):
    view = view_of(seen)
    without = len(render(replace(view, prompts=[replace(p, heads=[]) for p in view.prompts])))
    data = data_of(render(view, max_bytes=(without + len(render(view))) // 2))
    held = [[(one["layer"], one["head"]) for one in prompt["vectors"]] for prompt in data["prompts"]]
    assert 0 < sum(map(len, held)) < 6
    assert all(heads == [(0, 1), (1, 2), (1, 3)][: len(heads)] for heads in held)
    assert data["stored"]["heads"] == [sum(map(len, held)), 6]
    assert not any(prompt["vectors"] for prompt in data_of(render(view, max_bytes=1000))["prompts"])


def test_page_is_within_its_budget_by_default(seen):
    assert len(render(view_of(seen)).encode()) < 200_000


def test_page_of_one_step_of_256_tokens_and_36_heads_fits_into_two_megabytes():
    rng = np.random.default_rng(0)
    patterns = rng.dirichlet(np.full(256, 0.05), size=(1, 6, 6, 256)).astype(np.float32)
    view = view_of(moments())
    scores = {"entropy": np.zeros((1, 6, 6))}
    prompt = replace(view.prompts[0], labels=["a"] * 256, patterns=compand(patterns), scores=scores, heads=[])
    prompt = replace(prompt, value_norms=np.ones((1, 6, 6, 256), np.float32))
    assert len(render(replace(view, steps=[7], prompts=[prompt], n_kv_head=3))) < 2_000_000


def test_page_scores_are_readable_without_scripts(seen):
    page = render(view_of(seen))
    table = re.search(r"<details.*</details>", page, re.DOTALL)[0]
    value = float(patterns_of(seen["repeats"][-1])[1, 2, 1:, 0].mean())
    row = re.findall(r'<tr><th scope="row">1\.2</th>(.*?)</tr>', table)[1]
    assert f"<td>{value:.3g}</td>" in row
    assert "<td>–</td>" in row  # induction does not apply
    assert "&lt;/script&gt;" in table


def test_page_refuses_arrays_of_other_shapes(seen):
    view = view_of(seen)
    with pytest.raises(ValueError, match="prompt text: patterns is"):
        render(replace(view, steps=[1, 2]))
    with pytest.raises(ValueError, match="normalize=sigmoid: give one of softmax, relu"):
        render(replace(view, normalize="sigmoid"))


def test_page_in_a_notebook_is_a_sandboxed_iframe():
    shown = Page('<p class="a">&amp;</p>', "")._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;p class=&quot;a&quot;&gt;&amp;amp;&lt;/p&gt;" sandbox="allow-scripts"')
    assert "600px" in shown


def test_page_outside_a_notebook_has_a_short_repr_and_saves_itself(tmp_path):
    page = Page("<!doctype html>" * 100_000, "2 layers of 3 heads, 5 tokens")
    shown = "<attention page: 2 layers of 3 heads, 5 tokens, 1.5 MB; write it to a file with .save('view.html')>"
    assert repr(page) == shown
    assert repr(pickle.loads(pickle.dumps(page))) == shown
    page.save(tmp_path / "view.html")
    assert (tmp_path / "view.html").read_text() == page
