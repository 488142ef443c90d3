"""See what every head looks at: python scripts/attention.py --prompt "..." --output OUT.html (--help: every flag)."""

import argparse

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
    from headwise.files import output_path, whole, write_text
    from headwise.hf import open_model
    from headwise.inspection.look import reading_of, sheet_of, view_of
    from headwise.inspection.viewer import render

    require(bool(flags.output or flags.png), "nothing to write: give --output OUT.html or --png OUT.png")
    page = output_path(flags.output, "--output", ".html", ".htm") if flags.output else None
    sheet = output_path(flags.png, "--png", ".png") if flags.png else None
    checkpoint = open_model(flags.checkpoint)
    say(str(checkpoint.path))
    view = view_of(checkpoint, [reading_of(checkpoint, flags.prompt, "--prompt")])
    if page:
        write_text(page, render(view))
        print(page)
    if sheet:
        with whole(sheet) as temporary:
            sheet_of(view).save(temporary, format="PNG")
        print(sheet)


if __name__ == "__main__":
    run(main, parser())
