"""See what every head looks at: python scripts/attention.py --prompt "..." --output OUT.html (--help: every flag)."""

import argparse
from pathlib import Path

from headwise.cli import Parser, run, say


def parser() -> Parser:
    """The flags; what they mean is for headwise.inspection to check."""
    flags = Parser(description="Show what every attention head of a trained model looks at as it reads a prompt.")
    add = flags.add_argument
    add("--prompt", required=True, metavar="TEXT", help="the text to read")
    flags.add_checkpoint()
    add("--output", metavar="OUT.html", help="write the interactive page, one file that opens without a network")
    add("--png", metavar="OUT.png", help="write the contact sheet, every head's map in one picture")
    return flags


def main(flags: argparse.Namespace) -> None:
    from headwise.errors import require
    from headwise.files import path_of, whole, write_text
    from headwise.hf import open_model
    from headwise.inspection.look import sheet_of, view_of
    from headwise.inspection.viewer import render

    require(bool(flags.output or flags.png), "nothing to write: give --output OUT.html or --png OUT.png")
    for flag, place, endings in (("--output", flags.output, (".html", ".htm")), ("--png", flags.png, (".png",))):
        require(not place or not Path(place).is_dir(), f"{flag}={place} is a folder; give a file's name")
        require(not place or Path(place).suffix.lower() in endings, f"{flag}={place} must end in {endings[0]}")
    checkpoint = open_model(flags.checkpoint)
    say(str(checkpoint.path))
    view = view_of(checkpoint, flags.prompt, "--prompt")
    if flags.output:
        write_text(path_of(flags.output, "--output"), render(view))
        print(flags.output)
    if flags.png:
        with whole(path_of(flags.png, "--png")) as temporary:
            sheet_of(view).save(temporary, format="PNG")
        print(flags.png)


if __name__ == "__main__":
    run(main, parser())
