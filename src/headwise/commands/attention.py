"""Show what each attention head does with a prompt: headwise attention --prompt "..." --output OUT.html."""

import argparse
import json
from typing import Any

from headwise.console import Parser, run_command, say


def parser() -> Parser:
    """Return the parser of the flags; headwise.inspection checks their values."""
    flags = Parser(
        prog="headwise attention",
        description="Show what the attention heads of a trained model do as it reads a prompt.",
    )
    add = flags.add_argument
    add("--prompt", required=True, metavar="TEXT", help="the text to read")
    flags.add_checkpoint()
    add("--heads", action="store_true", help="print the scores of every head, with a description in words")
    add("--layer", type=int, metavar="L", help="with --head: print every step of one head's computation")
    add("--head", type=int, metavar="H", help="the head's index in its layer, from 0")
    add("--query", type=int, metavar="I", help="the query's index in the prompt, from 0; default: the last token")
    add("--output", metavar="OUT.html", help="write the interactive page, a single file that needs no network")
    add("--png", metavar="OUT.png", help="write the attention maps of all heads as one picture")
    add("--json", action="store_true", help="print the numbers of --heads and --layer as one JSON object")
    return flags


def main(arguments: list[str] | None = None) -> None:
    """Show attention with the given arguments, by default those of the command line."""
    run_command(run, parser(), arguments)


def run(flags: argparse.Namespace) -> None:
    """Print and write what the flags select."""
    from headwise.checkpoint import load
    from headwise.errors import require
    from headwise.files import atomic_write, output_path
    from headwise.inspection.page.page import render
    from headwise.inspection.snapshot import head_scores, text_view, tokenize, view_grid
    from headwise.inspection.tables import console_of, print_heads, print_walkthrough
    from headwise.inspection.walkthrough import Walkthrough

    require((flags.layer is None) == (flags.head is None), "--layer and --head go together: one of them is missing")
    require(flags.query is None or flags.layer is not None, f"--query {flags.query} needs --layer and --head as well")
    one_head = flags.layer is not None
    anything = flags.heads or one_head or flags.output is not None or flags.png is not None
    require(anything, "nothing to show: give --heads, --layer with --head, --output OUT.html or --png OUT.png")
    page = output_path(flags.output, "--output", ".html", ".htm") if flags.output is not None else None
    png = output_path(flags.png, "--png", ".png") if flags.png is not None else None
    checkpoint = load(flags.checkpoint, flags.plugin)
    say(str(checkpoint.path))
    text = tokenize(checkpoint, flags.prompt, "--prompt")
    start, numbers, console = {}, dict[str, Any](checkpoint=str(checkpoint.path)), console_of()
    if one_head:
        query = len(text.ids) - 1 if flags.query is None else flags.query
        start = {"layer": flags.layer, "head": flags.head, "query": query, "walk": 1}
        walkthrough = Walkthrough(checkpoint, text.ids, flags.layer, flags.head, query)
    rows = head_scores(checkpoint, flags.prompt, effects=flags.heads) if one_head or flags.heads else []
    if one_head:
        description = rows[flags.layer * checkpoint.model.config.n_head + flags.head]["description"]
        numbers["walkthrough"] = walkthrough.as_json() | {"description": description}
        if not flags.json:
            print_walkthrough(walkthrough, description, console)
    if flags.heads:
        numbers["heads"] = rows
        if not flags.json:
            print_heads(rows, console)
    if flags.json:
        print(json.dumps(numbers, indent=2))
    print_path = say if flags.json else print
    if page or png:
        view = text_view(checkpoint, [text], start)
        if page:
            render(view).save(page)
            print_path(str(page))
        if png:
            with atomic_write(png) as temporary:
                view_grid(view).save(temporary, format="PNG")
            print_path(str(png))
