"""How well a trained model predicts a text: python scripts/evaluate.py --data my.txt; --help lists every flag."""

import argparse
import json

from headwise.console import Parser, run, say


def parser() -> Parser:
    """The flags; what they mean is for headwise.evaluation to check."""
    flags = Parser(description="Loss, perplexity and bits per byte of a trained model, over every token of a text.")
    flags.add_checkpoint()
    flags.add_precision()
    add = flags.add_argument
    add("--data", metavar="PATH", help="a text file, a folder of them, or a glob; default: the text of the training")
    add(
        "--column",
        default="text",
        metavar="NAME",
        help="of .jsonl, .csv and .parquet: where the text is; default: text",
    )
    add("--split", choices=["train", "val"], help="which part of the training's text; default: val")
    add("--json", action="store_true", help="print one object")
    return flags


def main(flags: argparse.Namespace) -> None:
    from headwise.checkpoint import load
    from headwise.config import DataConfig
    from headwise.data.sources import files, read_text
    from headwise.errors import require
    from headwise.evaluation import measure
    from headwise.generation.fast import for_inference
    from headwise.stream import source_of

    require(
        flags.data is None or not flags.split,
        f"--split {flags.split} is a part of the training's text; leave out --data",
    )
    checkpoint = load(flags.checkpoint)
    say(str(checkpoint.path))
    about = checkpoint.about
    if flags.data is not None:
        require(bool(flags.data), "--data= is empty; give a file, a folder of them, or a glob")
        wanted = DataConfig(source="files", path=flags.data, column=flags.column, cache_dir="")
        text, what = files(wanted, flags.data, "--data"), f"--data {flags.data}"
    else:
        require(
            "data" in about.get("config", {}), f"{checkpoint.path} does not say what it was trained on; give --data"
        )
        split, what = flags.split or "val", "the text of the training"
        text = source_of(getattr(read_text(DataConfig(**about["config"]["data"] | {"cache_dir": ""})), split))
        if about.get("text", {}).get(split) != text.fingerprint:
            say(f"this is not what the training had: its text, or the part held out, has changed since ({split})")
    say("reading" + (f" {text.characters:,} characters" if text.characters else ""))
    model = for_inference(checkpoint.model, flags.precision)
    measured = measure(model, checkpoint.tokenizer, text, what) | {"checkpoint": str(checkpoint.path)}
    if flags.json:
        print(json.dumps(measured, indent=2))
        return
    print(f"loss           {measured['loss']:.4f} nats per token")
    print(f"perplexity     {measured['perplexity']:.4f}")
    print(f"bits per byte  {measured['bits_per_byte']:.4f}")
    print(f"tokens         {measured['tokens']:,}")


if __name__ == "__main__":
    run(main, parser())
