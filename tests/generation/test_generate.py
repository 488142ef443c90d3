"""Generation: what is sampled is what was asked for, whatever it is sampled beside."""

import math
from itertools import islice

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from headwise.errors import UserError
from headwise.generation.generate import Writer, complete, generate, overlap, window_start
from headwise.generation.sampling import Sampling, draws, filtered, sample
from headwise.tokenizer import train_tokenizer
from tests.presets import PRESETS
from tests.small import TEXT, small_model, small_tokenizer

WISHES = [
    Sampling(temperature=0.7),
    Sampling(top_k=5),
    Sampling(top_p=0.6),
    Sampling(min_p=0.2),
    Sampling(repetition_penalty=1.7),
    Sampling(1.3, 1.9, 11, 0.8, 0.05),
]
GREEDY = Sampling(temperature=0)


def tokens(model, texts, count, sampling=GREEDY, seeds=None):
    """New tokens of each text, as lists."""
    steps = generate(model, texts, count, sampling, seeds or list(range(len(texts))))
    return torch.stack([ids for ids, _ in steps], dim=1).tolist()


@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_filters_are_those_of_transformers(wish):
    torch.manual_seed(0)
    logits, ids = torch.randn(7, 53) * 3, torch.randint(53, (7, 13))
    theirs = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(wish.repetition_penalty)])
    theirs.append(TemperatureLogitsWarper(wish.temperature))
    if wish.top_k:
        theirs.append(TopKLogitsWarper(wish.top_k))
    if wish.top_p:
        theirs.append(TopPLogitsWarper(wish.top_p))
    if wish.min_p:
        theirs.append(MinPLogitsWarper(wish.min_p))
    present = torch.zeros(7, 53, dtype=torch.bool).scatter(1, ids, True)
    ours = filtered(logits, wish, present).softmax(-1)
    assert torch.allclose(ours, theirs(ids, logits).softmax(-1), atol=1e-6)


def test_a_tiny_temperature_takes_the_likeliest_and_gives_no_nan():
    logits = torch.tensor([[0.0, 90.0, 89.0], [3.0, -1e30, 2.0]])
    assert sample(logits, Sampling(temperature=1e-30), torch.tensor([0.3, 0.9])).tolist() == [1, 0]


@pytest.mark.parametrize("wish", [*WISHES[:4], WISHES[-1]], ids=str)
def test_samples_follow_the_filtered_probabilities(wish):
    torch.manual_seed(2)
    logits, n = torch.randn(1, 13) * 2, 4000
    drawn = sample(logits.expand(n, -1), wish, torch.cat(list(islice(draws([5]), n))))
    expected = filtered(logits, wish).softmax(-1)[0] * n
    counts = torch.bincount(drawn, minlength=13)
    kept = expected > 0
    assert counts[~kept].sum() == 0
    common = expected >= 5
    rest = (counts[~common].sum() - expected[~common].sum()) ** 2 / expected[~common].sum().clamp(min=5)
    chi_square = ((counts - expected)[common] ** 2 / expected[common]).sum() + rest
    assert chi_square < {1: 10.8, 2: 13.8, 3: 16.3, 4: 18.5}.get(int(common.sum()), 34.5)  # p = 0.001, up to 13 kinds


@pytest.mark.parametrize("preset", PRESETS)
def test_each_token_is_that_of_running_the_whole_model_over_what_it_sees(preset):
    model, ids = small_model(preset), [3, 1, 4]
    expected = list(ids)
    for _ in range(67):  # far beyond block_size=29
        with torch.no_grad():
            expected.append(int(model(torch.tensor([expected[window_start(len(expected), 29) :]]))[0, -1].argmax()))
    assert tokens(model, [ids], 67) == [expected[3:]]


def test_a_model_sees_the_last_half_block_at_least_and_a_block_at_most():
    for block in (1, 2, 7, 8, 29):
        assert all(window_start(n, block) == 0 for n in range(1, block + 1))
        for n in range(block + 1, 5 * block):
            assert block // 2 < n - window_start(n, block) <= block
        starts = [window_start(n, block) for n in range(1, 5 * block)]
        assert starts == sorted(starts)
        assert len(set(starts)) <= 9  # few times is the text read anew


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("wish", [GREEDY, WISHES[-1]], ids=["greedy", "sampled"])
def test_a_text_does_not_depend_on_its_neighbours_nor_on_how_many_tokens_follow(preset, wish):
    """Of different lengths, one beyond the window; through the places where each is read anew."""
    model = small_model(preset).double()
    texts, seeds = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2] * 3], [7, 11, 7]
    together = tokens(model, texts, 61, wish, seeds)
    for text, seed, ours in zip(texts, seeds, together, strict=True):
        assert tokens(model, [text], 61, wish, [seed]) == [ours]
        assert tokens(model, [text], 17, wish, [seed]) == [ours[:17]]


def test_the_same_seed_gives_the_same_tokens_and_leaves_the_random_state_alone():
    model, plain = small_model(), Sampling()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = tokens(model, [[1]], 30, plain, [11])
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    assert tokens(model, [[1]], 30, plain, [11]) == first
    assert tokens(model, [[1]], 30, plain, [12]) != first


def test_nothing_is_computed_that_is_not_asked_for():
    """One forward pass for the prompt and one of one token for each new token but the first."""
    model, seen = small_model(), []
    model.embedding.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    list(islice(generate(model, [[1, 2, 3], [4, 5, 6]], 9, GREEDY, [0, 0]), 5))
    assert seen == [(2, 3), (2, 1), (2, 1), (2, 1), (2, 1)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"texts": [[]]}, "the prompt is empty"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"sampling": Sampling(temperature=-0.5)}, "temperature=-0.5"),
        ({"sampling": Sampling(temperature=math.nan)}, "temperature=nan"),
        ({"sampling": Sampling(top_k=0)}, "top_k=0"),
        ({"sampling": Sampling(top_p=0.0)}, "top_p=0.0"),
        ({"sampling": Sampling(min_p=1.5)}, "min_p=1.5"),
        ({"sampling": Sampling(repetition_penalty=0)}, "repetition_penalty=0"),
        ({"seeds": [-1]}, "seed=-1"),
    ],
)
def test_wrong_wishes_are_refused_before_anything_runs(wrong, message):
    wishes = {"texts": [[1]], "max_new_tokens": 3, "sampling": GREEDY, "seeds": [0]}
    with pytest.raises(UserError, match=message):
        generate(small_model(), **wishes | wrong)


def test_completions_stop_one_by_one_and_are_told_as_they_come():
    tokenizer = small_tokenizer()
    model = small_model(vocab_size=tokenizer.vocab_size, block_size=31)
    told = {}
    prompts, sampling = ["The kids", "so they left"], Sampling(temperature=1.5)
    samples = complete(
        model, tokenizer, prompts, 40, sampling, [3, 4], ["e", "o"], lambda i, text: told.setdefault(i, []).append(text)
    )
    assert [(one.prompt, one.seed) for one in samples] == [(p, s) for p in prompts for s in (3, 4)]
    for i, one in enumerate(samples):
        assert one.text == "".join(told.get(i, []))
        assert not set(one.text) & {"e", "o"}
        alone = complete(model, tokenizer, [one.prompt], 40, sampling, [one.seed], ["e", "o"])[0]
        assert (alone.text, alone.tokens) == (one.text, one.tokens)
        assert tokenizer.decode(one.tokens).startswith(one.text)
    ids = tokenizer.encode(samples[0].prompt) + samples[0].tokens
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).log_softmax(-1)[0]
    start = len(ids) - len(samples[0].tokens) - 1
    expected = [float(logprobs[start + i, token]) for i, token in enumerate(samples[0].tokens)]
    assert samples[0].logprobs == pytest.approx(expected, abs=1e-4)


def written(tokenizer, ids, stop):
    """What a writer lets out, token after token, and whether it stopped."""
    writer = Writer(tokenizer, stop)
    parts = [writer.push(i) for i in ids if not writer.stopped]
    return [*parts, writer.finish()], writer.stopped


def test_a_stop_string_ends_the_text_before_it_also_across_tokens():
    tokenizer = small_tokenizer()
    ids = tokenizer.encode("The kids were scared")
    parts, stopped = written(tokenizer, ids, ["were", "kids wa"])
    assert ("".join(parts), stopped) == ("The kids ", True)
    assert parts[4] == ""  # "k" may be the beginning of "kids wa"
    assert "".join(written(tokenizer, ids, ["scared!"])[0]) == "The kids were scared"
    assert "".join(written(tokenizer, tokenizer.encode("so so so sad"), ["so so sad"])[0]) == "so "


def test_overlap_counts_what_a_stop_string_may_begin_with():
    assert [overlap(text, "abab") for text in ("x", "a", "xab", "aba", "abab")] == [0, 1, 2, 3, 2]


def test_characters_of_several_bytes_come_out_whole():
    text = "é🦁 naïve 你好"
    tokenizer = train_tokenizer("bpe", TEXT, 256)
    parts, _ = written(tokenizer, tokenizer.encode(text), ["🐘"])  # whose first bytes are the lion's
    assert "".join(parts) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in part for part in parts)
