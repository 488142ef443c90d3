"""Generate text from a trained model: python scripts/generate.py --prompt "def "; --help lists every flag."""

import argparse

from headwise.cli import Parser, run, say


def parser() -> Parser:
    """The flags; what they mean is for headwise.generation to check."""
    flags = Parser(description="Continue a prompt with a trained model. The text appears as it is sampled.")
    add = flags.add_argument
    add("--prompt", required=True, metavar="TEXT", help="the text to continue")
    flags.add_checkpoint()
    add("--max-new-tokens", type=int, default=300, metavar="N", help="default: %(default)s")
    add("--temperature", type=float, default=0.8, metavar="F", help="0: always the likeliest; default: %(default)s")
    add("--top-k", type=int, metavar="N", help="sample from the N likeliest tokens only")
    add("--seed", type=int, default=0, metavar="N", help="the same seed gives the same text; default: %(default)s")
    return flags


def main(flags: argparse.Namespace) -> None:
    from headwise.generation import generate
    from headwise.hf import open_model

    checkpoint = open_model(flags.checkpoint)
    say(str(checkpoint.path))
    ids = checkpoint.tokenizer.encode(flags.prompt, "--prompt")
    new = generate(checkpoint.model, ids, flags.max_new_tokens, flags.temperature, flags.top_k, flags.seed)
    print(flags.prompt, end="", flush=True)
    for text in checkpoint.tokenizer.stream(new):
        print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    run(main, parser())
