"""Measure how well a trained model predicts a text: headwise evaluate --data my.txt."""

import argparse
import json
from typing import TYPE_CHECKING

from headwise.console import Parser, run_command, say

if TYPE_CHECKING:
    from headwise.checkpoint import Checkpoint
    from headwise.stream import Source


def parser() -> Parser:
    """Return the parser of the flags; headwise.evaluation checks their values."""
    flags = Parser(
        prog="headwise evaluate",
        description="Loss, perplexity and bits per byte of a trained model, over every token of a text.",
    )
    flags.add_checkpoint()
    flags.add_precision()
    add = flags.add_argument
    add("--data", metavar="PATH", help="a text file, a folder or a glob; default: the text that the model trained on")
    column = "the column or key of the text in .jsonl, .csv and .parquet files; default: %(default)s"
    add("--column", default="text", metavar="NAME", help=column)
    add("--split", choices=["train", "val"], help="which part of the text that the model trained on; default: val")
    add("--json", action="store_true", help="print one JSON object")
    return flags


def main(arguments: list[str] | None = None) -> None:
    """Evaluate with the given arguments, by default those of the command line."""
    run_command(run, parser(), arguments)


def run(flags: argparse.Namespace) -> None:
    """Print how well the model that the flags select predicts their text."""
    from headwise.checkpoint import load
    from headwise.errors import require
    from headwise.evaluation import measure
    from headwise.generation.fast import for_inference

    alone = flags.data is None or not flags.split
    require(alone, f"--split {flags.split} is a part of the text that the model trained on; leave out --data")
    checkpoint = load(flags.checkpoint)
    say(str(checkpoint.path))
    text, name = text_of(flags, checkpoint)
    say("reading" + (f" {text.characters:,} characters" if text.characters else ""))
    model = for_inference(checkpoint.model, flags.precision)
    measured = measure(model, checkpoint.tokenizer, text, name) | {"checkpoint": str(checkpoint.path)}
    if flags.json:
        print(json.dumps(measured, indent=2))
        return
    print(f"loss           {measured['loss']:.4f} nats per token")
    print(f"perplexity     {measured['perplexity']:.4f}")
    print(f"bits per byte  {measured['bits_per_byte']:.4f}")
    print(f"tokens         {measured['tokens']:,}")


def text_of(flags: argparse.Namespace, checkpoint: "Checkpoint") -> "tuple[Source, str]":
    """Return the text of the flags, and its name in messages. Without --data it is that of the training; print a line
    if it has changed since."""
    from headwise.config import DataConfig
    from headwise.data.sources import files, read_text
    from headwise.errors import require
    from headwise.stream import source_of

    if flags.data is not None:
        require(bool(flags.data), "--data= is empty; give a file, a folder or a glob")
        data = DataConfig(source="files", path=flags.data, column=flags.column, cache_dir="")
        return files(data, flags.data, "--data"), f"--data {flags.data}"
    about, split = checkpoint.about, flags.split or "val"
    known = "data" in about.get("config", {})
    require(known, f"{checkpoint.path} does not say which text the model trained on; give --data")
    data = DataConfig(**about["config"]["data"] | {"cache_dir": ""})
    text = source_of(getattr(read_text(data), split))
    if about.get("text", {}).get(split) != text.fingerprint:
        say(f"the text that the model trained on, or its split, has changed since ({split})")
    return text, "the text that the model trained on"
