"""See what every head looks at: python scripts/attention.py --prompt "..." --output OUT.html (--help: every flag)."""

import argparse
import json
from typing import Any

from headwise.console import Parser, run, say


def parser() -> Parser:
    """The flags; what they mean is for headwise.inspection to check."""
    flags = Parser(description="Show what the attention heads of a trained model do as it reads a prompt.")
    add = flags.add_argument
    add("--prompt", required=True, metavar="TEXT", help="the text to read")
    flags.add_checkpoint()
    add("--heads", action="store_true", help="print what every head does, in numbers and in words")
    add("--layer", type=int, metavar="L", help="with --head: walk through one head, number by number")
    add("--head", type=int, metavar="H", help="its place in the layer, from 0")
    add("--query", type=int, metavar="I", help="for which token of the prompt, from 0; default: the last")
    add("--output", metavar="OUT.html", help="write the interactive page, one file that opens without a network")
    add("--png", metavar="OUT.png", help="write the attention grid, every head's map in one picture")
    add("--json", action="store_true", help="print all numbers in full, as one object")
    return flags


def main(flags: argparse.Namespace) -> None:
    from headwise.checkpoint import load
    from headwise.errors import require
    from headwise.files import output_path, whole, write_text
    from headwise.inspection.page.page import render
    from headwise.inspection.snapshot import heads_of, reading_of, sheet_of, view_of
    from headwise.inspection.tables import console_of, show_heads, show_walk
    from headwise.inspection.walkthrough import walk_through

    require((flags.layer is None) == (flags.head is None), "--layer and --head go together: one of them is missing")
    require(flags.query is None or flags.layer is not None, f"--query {flags.query} needs --layer and --head as well")
    walk = flags.layer is not None
    asked = flags.heads or walk or flags.output is not None or flags.png is not None
    require(asked, "nothing to show: give --heads, --layer with --head, --output OUT.html or --png OUT.png")
    page = output_path(flags.output, "--output", ".html", ".htm") if flags.output is not None else None
    sheet = output_path(flags.png, "--png", ".png") if flags.png is not None else None
    checkpoint = load(flags.checkpoint)
    say(str(checkpoint.path))
    reading = reading_of(checkpoint, flags.prompt, "--prompt")
    start, told, console = {}, dict[str, Any](checkpoint=str(checkpoint.path)), console_of()
    if walk:
        query = len(reading.ids) - 1 if flags.query is None else flags.query
        start = {"layer": flags.layer, "head": flags.head, "query": query, "walk": 1}
        steps = walk_through(checkpoint, reading.ids, flags.layer, flags.head, query)
    rows = heads_of(checkpoint, reading, effects=flags.heads) if walk or flags.heads else []
    if walk:
        words = rows[flags.layer * checkpoint.model.config.n_head + flags.head]["words"]
        told["walkthrough"] = steps.as_json() | {"words": words}
        if not flags.json:
            show_walk(steps, words, console)
    if flags.heads:
        told["heads"] = rows
        if not flags.json:
            show_heads(rows, console)
    if flags.json:
        print(json.dumps(told, indent=2))
    announce = say if flags.json else print
    if page or sheet:
        view = view_of(checkpoint, [reading], start)
        if page:
            write_text(page, render(view))
            announce(str(page))
        if sheet:
            with whole(sheet) as temporary:
                sheet_of(view).save(temporary, format="PNG")
            announce(str(sheet))


if __name__ == "__main__":
    run(main, parser())
