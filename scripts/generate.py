"""Generate text from a trained model: python scripts/generate.py --prompt "def "; --help lists every flag."""

import argparse
import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from headwise.console import Parser, run, say

if TYPE_CHECKING:
    from pathlib import Path

    from headwise.checkpoint import Checkpoint
    from headwise.generation.generate import Sample
    from headwise.generation.sampling import Sampling
    from headwise.model.gpt import GPT
    from headwise.tokenizer import Tokenizer


def parser() -> Parser:
    """The flags; what they mean is for headwise.generation.generate to check."""
    flags = Parser(description="Continue a prompt with a trained model. The text appears as it is sampled.")
    add = flags.add_argument
    add("--prompt", nargs="+", default=[], metavar="TEXT", help="the text to continue, or several, each by itself")
    add("--prompt-file", metavar="FILE", help="a file with the text to continue; -: standard input")
    flags.add_checkpoint()
    flags.add_precision()
    add("--max-new-tokens", type=int, default=300, metavar="N", help="default: %(default)s")
    add("--temperature", type=float, default=0.8, metavar="F", help="0: always the likeliest; default: %(default)s")
    add("--greedy", action="store_true", help="always the likeliest token")
    add("--top-k", type=int, metavar="N", help="sample from the N likeliest tokens only")
    add("--top-p", type=float, metavar="F", help="only from the likeliest that have probability F together")
    add("--min-p", type=float, metavar="F", help="only from those at least F times as likely as the likeliest")
    add("--repetition-penalty", type=float, default=1.0, metavar="F", help="above 1: less of what is there already")
    add("--seed", type=int, default=0, metavar="N", help="the same seed gives the same text; default: %(default)s")
    several = "continuations of each prompt, with seeds SEED, SEED+1, ..."
    add("--num-samples", type=int, default=1, metavar="N", help=several)
    add("--stop", nargs="+", default=[], metavar="TEXT", help="end before any of these texts")
    add("--replace-unknown", action="store_true", help="put a question mark for characters the tokenizer does not know")
    add("--json", action="store_true", help="print one object with texts, tokens, log-probabilities, seeds and speed")
    add("--attention", metavar="OUT.html", help="write the page of what every token of the text looked at")
    add("--interactive", action="store_true", help="read lines and continue each, with all that came before in view")
    return flags


def main(flags: argparse.Namespace) -> None:
    from headwise.checkpoint import load
    from headwise.errors import require
    from headwise.files import output_path
    from headwise.generation.chat import Session, talk
    from headwise.generation.fast import for_inference
    from headwise.generation.generate import check
    from headwise.generation.sampling import Sampling

    temperature = 0.0 if flags.greedy else flags.temperature
    sampling = Sampling(flags.repetition_penalty, temperature, flags.top_k, flags.top_p, flags.min_p)
    require(flags.num_samples >= 1, f"--num-samples {flags.num_samples} must be at least 1")
    seeds = [flags.seed, flags.seed + flags.num_samples - 1]
    check(flags.max_new_tokens, sampling, seeds, flags.stop)
    page = output_path(flags.attention, "--attention", ".html", ".htm") if flags.attention is not None else None
    given = bool(flags.prompt) + (flags.prompt_file is not None)
    require(given == 1 or (flags.interactive and not given), "give --prompt TEXT or --prompt-file FILE, one of them")
    if flags.interactive:
        several = flags.num_samples > 1 or len(flags.prompt) > 1
        alone = not (several or flags.json or page or flags.prompt_file == "-")
        require(alone, "--interactive goes on with one text: no --json, --attention, --prompt-file -, several samples")
    checkpoint = load(flags.checkpoint)
    say(str(checkpoint.path))
    prompts = prompts_of(flags, checkpoint.tokenizer)
    model = for_inference(checkpoint.model, flags.precision)
    if flags.interactive:
        session = Session(model, checkpoint.tokenizer, sampling, flags.seed, flags.max_new_tokens, flags.stop)
        talk(session, prompts, flags.replace_unknown)
        return
    samples = tell(flags, checkpoint, model, prompts, sampling)
    if page:
        write_page(page, checkpoint, samples, flags.num_samples)


def prompts_of(flags: argparse.Namespace, tokenizer: "Tokenizer") -> list[str]:
    """What is to be continued, checked."""
    from headwise.data.readers import decoded
    from headwise.files import path_of

    prompts, what = flags.prompt, "--prompt"
    if flags.prompt_file is not None:
        file, what = flags.prompt_file, f"--prompt-file {flags.prompt_file}"
        raw = sys.stdin.buffer.read() if file == "-" else path_of(file, "--prompt-file").read_bytes()
        prompts = [decoded(raw, what)]
    if flags.replace_unknown:
        prompts = [tokenizer.replace_unknown(prompt) for prompt in prompts]
    for prompt in prompts:
        tokenizer.check(prompt, what)
    return prompts


def tell(
    flags: argparse.Namespace, checkpoint: "Checkpoint", model: "GPT", prompts: list[str], sampling: "Sampling"
) -> "list[Sample]":
    """Generate, and print: one text as it comes, several one after the other, or all as one object."""
    from headwise.generation.generate import complete

    seeds = range(flags.seed, flags.seed + flags.num_samples)
    streamed = len(prompts) * len(seeds) == 1 and not flags.json
    began, first = time.perf_counter(), 0.0

    def heard(_: int, text: str) -> None:
        nonlocal first
        if streamed:
            print(text if first else prompts[0] + text, end="", flush=True)
        first = first or time.perf_counter() - began

    samples = complete(model, checkpoint.tokenizer, prompts, flags.max_new_tokens, sampling, seeds, flags.stop, heard)
    seconds, count = time.perf_counter() - began, sum(len(sample.tokens) for sample in samples)
    if streamed:
        print()
    elif flags.json:
        about = {
            "prompt": prompts[0] if len(prompts) == 1 else prompts,
            "samples": [asdict(sample) for sample in samples],
            "tokens_per_second": count / seconds,
            "first_token_seconds": first if count else None,
            "checkpoint": str(checkpoint.path),
        }
        print(json.dumps(about, indent=2))
    else:
        for number, sample in enumerate(samples):
            print(f"==== prompt {number // len(seeds) + 1}, seed {sample.seed}\n{sample.prompt}{sample.text}\n")
    say(f"{count} tokens in {seconds:.2f} s, {count / seconds:,.0f} a second")
    return samples


def write_page(page: "Path", checkpoint: "Checkpoint", samples: "list[Sample]", num_samples: int) -> None:
    """The page of the texts just generated."""
    from headwise.inspection.page.page import render
    from headwise.inspection.snapshot import Text, text_view

    texts = []
    for number, sample in enumerate(samples):
        before = checkpoint.tokenizer.encode(sample.prompt)
        name = "the text" if len(samples) == 1 else f"prompt {number // num_samples + 1}, seed {sample.seed}"
        texts.append(Text(name, before + sample.tokens, len(before)))
    say("recording the attention of every token")
    render(text_view(checkpoint, texts)).save(page)
    say(str(page))


if __name__ == "__main__":
    run(main, parser())
