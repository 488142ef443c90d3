"""Write a trained model as a Hugging Face folder: headwise export --output DIR."""

import argparse

from headwise.console import Parser, run_command, say


def parser() -> Parser:
    """Return the parser of the flags."""
    description = "Write a trained model as a Hugging Face folder, which transformers can open."
    flags = Parser(prog="headwise export", description=description)
    flags.add_checkpoint()
    flags.add_argument("--output", required=True, metavar="DIR", help="the folder to write, new or empty")
    return flags


def main(arguments: list[str] | None = None) -> None:
    """Export with the given arguments, by default those of the command line."""
    run_command(run, parser(), arguments)


def run(flags: argparse.Namespace) -> None:
    """Export the model that the flags select."""
    from headwise.checkpoint import load
    from headwise.files import expand_path
    from headwise.huggingface import export

    checkpoint = load(flags.checkpoint, flags.plugin)
    say(str(checkpoint.path))
    export(checkpoint, expand_path(flags.output, "--output").resolve())
    print(flags.output)
