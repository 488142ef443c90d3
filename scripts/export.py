"""Write a trained model as a Hugging Face folder: python scripts/export.py --output DIR; --help lists every flag."""

import argparse

from headwise.console import Parser, run, say


def parser() -> Parser:
    """The flags."""
    flags = Parser(description="Write a trained model as a folder that transformers opens.")
    add = flags.add_argument
    flags.add_checkpoint()
    add("--output", required=True, metavar="DIR", help="the folder to make; it must not be there yet, or be empty")
    return flags


def main(flags: argparse.Namespace) -> None:
    from headwise.checkpoint import load
    from headwise.files import path_of
    from headwise.huggingface import export

    checkpoint = load(flags.checkpoint)
    say(str(checkpoint.path))
    export(checkpoint, path_of(flags.output, "--output").resolve())
    print(flags.output)


if __name__ == "__main__":
    run(main, parser())
