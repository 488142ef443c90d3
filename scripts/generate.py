"""Generate text from a trained model: python scripts/generate.py --prompt "def "; --help lists every flag."""

import argparse
import json
import sys
import time
from dataclasses import asdict

from headwise.cli import Parser, run, say


def parser() -> Parser:
    """The flags; what they mean is for headwise.generation to check."""
    flags = Parser(description="Continue a prompt with a trained model. The text appears as it is sampled.")
    add = flags.add_argument
    add("--prompt", nargs="+", default=[], metavar="TEXT", help="the text to continue, or several, each by itself")
    add("--prompt-file", metavar="FILE", help="a file with the text to continue; -: standard input")
    flags.add_checkpoint()
    add("--max-new-tokens", type=int, default=300, metavar="N", help="default: %(default)s")
    add("--temperature", type=float, default=0.8, metavar="F", help="0: always the likeliest; default: %(default)s")
    add("--greedy", action="store_true", help="always the likeliest token")
    add("--top-k", type=int, metavar="N", help="sample from the N likeliest tokens only")
    add("--top-p", type=float, metavar="F", help="only from the likeliest that have probability F together")
    add("--min-p", type=float, metavar="F", help="only from those at least F times as likely as the likeliest")
    add("--repetition-penalty", type=float, default=1.0, metavar="F", help="above 1: less of what is there already")
    add("--seed", type=int, default=0, metavar="N", help="the same seed gives the same text; default: %(default)s")
    add(
        "--num-samples",
        type=int,
        default=1,
        metavar="N",
        help="continuations of each prompt, with seeds SEED, SEED+1, ...",
    )
    add("--stop", nargs="+", default=[], metavar="TEXT", help="end before any of these texts")
    add("--replace-unknown", action="store_true", help="put a question mark for characters the tokenizer does not know")
    add("--json", action="store_true", help="print one object with texts, tokens, log-probabilities, seeds and speed")
    return flags


def main(flags: argparse.Namespace) -> None:
    from headwise.errors import require
    from headwise.generation import Sampling, complete
    from headwise.hf import open_model

    require(bool(flags.prompt) != bool(flags.prompt_file), "give --prompt TEXT or --prompt-file FILE, one of them")
    require(flags.num_samples >= 1, f"--num-samples {flags.num_samples} must be at least 1")
    sampling = Sampling(
        flags.repetition_penalty, 0.0 if flags.greedy else flags.temperature, flags.top_k, flags.top_p, flags.min_p
    )
    sampling.check()
    prompts = flags.prompt or [read(flags.prompt_file)]
    checkpoint = open_model(flags.checkpoint)
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    say(str(checkpoint.path))
    if flags.replace_unknown:
        prompts = [tokenizer.replace_unknown(prompt) for prompt in prompts]
    for prompt in prompts:
        tokenizer.check(prompt, f"--prompt-file {flags.prompt_file}" if flags.prompt_file else "--prompt")
    seeds = list(range(flags.seed, flags.seed + flags.num_samples))
    alone = len(prompts) * len(seeds) == 1 and not flags.json
    began = time.perf_counter()
    first: list[float] = []

    def heard(_: int, text: str) -> None:
        first.append(time.perf_counter() - began)
        if alone:
            print((prompts[0] if len(first) == 1 else "") + text, end="", flush=True)

    samples = complete(model, tokenizer, prompts, flags.max_new_tokens, sampling, seeds, flags.stop, heard)
    seconds, count = time.perf_counter() - began, sum(len(sample.tokens) for sample in samples)
    if flags.json:
        about = {
            "prompt": prompts[0] if len(prompts) == 1 else prompts,
            "samples": [asdict(sample) for sample in samples],
            "tokens_per_second": count / seconds,
            "first_token_seconds": first[0] if first else None,
            "checkpoint": str(checkpoint.path),
        }
        print(json.dumps(about, indent=2))
    elif alone:
        print("" if first else prompts[0])
    else:
        for number, sample in enumerate(samples):
            print(f"==== prompt {number // len(seeds) + 1}, seed {sample.seed}\n{sample.prompt}{sample.text}\n")
    say(f"{count} tokens in {seconds:.2f} s, {count / seconds:,.0f} a second")


def read(file: str) -> str:
    """The text of a file, or of standard input."""
    from headwise.data.text import decoded
    from headwise.files import path_of

    raw = sys.stdin.buffer.read() if file == "-" else path_of(file, "--prompt-file").read_bytes()
    return decoded(raw, f"--prompt-file {file}")


if __name__ == "__main__":
    run(main, parser())
