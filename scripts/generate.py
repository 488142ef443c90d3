"""Generate text from a trained model: python scripts/generate.py --prompt "def "; --help lists every flag."""

import argparse
import sys

from headwise.errors import UserError


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Continue a prompt with a trained model, as it is sampled.")
    parser.add_argument("--prompt", required=True, help="the text to continue")
    parser.add_argument("--checkpoint", help="a run's folder or a .ckpt file; default: the newest run's best")
    parser.add_argument("--max-new-tokens", type=int, default=300, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        metavar="F",
        help="0: the likeliest token each time; default: %(default)s",
    )
    parser.add_argument("--top-k", type=int, metavar="N", help="sample from the N likeliest tokens only")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="the same seed gives the same text; default: %(default)s",
    )
    return parser.parse_args()


def main(flags: argparse.Namespace) -> None:
    from headwise.checkpoint import find, load
    from headwise.generation import generate

    checkpoint = load(find(flags.checkpoint))
    print(f"headwise: {checkpoint.path}", file=sys.stderr)
    prompt = checkpoint.tokenizer.encode(flags.prompt, "--prompt")
    new = generate(checkpoint.model, prompt, flags.max_new_tokens, flags.temperature, flags.top_k, flags.seed)
    print(flags.prompt, end="", flush=True)
    for text in checkpoint.tokenizer.stream(new):
        print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    try:
        main(parse())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
