"""Show what heads attend to: python scripts/attention.py --prompt "..." --output OUT.html (--help: every flag)."""

import argparse
import json
from typing import Any

from headwise.console import Parser, run, say


def parser() -> Parser:
    """Return the flags; headwise.inspection checks their values."""
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
    from headwise.files import output_path, whole
    from headwise.inspection.page.page import render
    from headwise.inspection.snapshot import head_rows, text_view, tokenize, view_grid
    from headwise.inspection.tables import console_of, print_heads, print_walkthrough
    from headwise.inspection.walkthrough import Walkthrough

    require((flags.layer is None) == (flags.head is None), "--layer and --head go together: one of them is missing")
    require(flags.query is None or flags.layer is not None, f"--query {flags.query} needs --layer and --head as well")
    walk = flags.layer is not None
    asked = flags.heads or walk or flags.output is not None or flags.png is not None
    require(asked, "nothing to show: give --heads, --layer with --head, --output OUT.html or --png OUT.png")
    page = output_path(flags.output, "--output", ".html", ".htm") if flags.output is not None else None
    png = output_path(flags.png, "--png", ".png") if flags.png is not None else None
    checkpoint = load(flags.checkpoint)
    say(str(checkpoint.path))
    text = tokenize(checkpoint, flags.prompt, "--prompt")
    start, numbers, console = {}, dict[str, Any](checkpoint=str(checkpoint.path)), console_of()
    if walk:
        query = len(text.ids) - 1 if flags.query is None else flags.query
        start = {"layer": flags.layer, "head": flags.head, "query": query, "walk": 1}
        walkthrough = Walkthrough(checkpoint, text.ids, flags.layer, flags.head, query)
    rows = head_rows(checkpoint, text, effects=flags.heads) if walk or flags.heads else []
    if walk:
        words = rows[flags.layer * checkpoint.model.config.n_head + flags.head]["words"]
        numbers["walkthrough"] = walkthrough.as_json() | {"words": words}
        if not flags.json:
            print_walkthrough(walkthrough, words, console)
    if flags.heads:
        numbers["heads"] = rows
        if not flags.json:
            print_heads(rows, console)
    if flags.json:
        print(json.dumps(numbers, indent=2))
    announce = say if flags.json else print
    if page or png:
        view = text_view(checkpoint, [text], start)
        if page:
            render(view).save(page)
            announce(str(page))
        if png:
            with whole(png) as temporary:
                view_grid(view).save(temporary, format="PNG")
            announce(str(png))


if __name__ == "__main__":
    run(main, parser())
