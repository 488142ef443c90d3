"""How well a trained model predicts a text: python scripts/evaluate.py --data my.txt; --help lists every flag."""

import argparse
import json

from headwise.cli import Parser, run, say


def parser() -> Parser:
    """The flags; what they mean is for headwise.evaluation to check."""
    flags = Parser(description="Loss, perplexity and bits per byte of a trained model, over every token of a text.")
    flags.add_checkpoint()
    flags.add_precision()
    add = flags.add_argument
    add("--data", metavar="PATH", help="a text file, a folder of them, or a glob; default: the text of the training")
    add("--split", choices=["train", "val"], help="which part of the training's text; default: val")
    add("--json", action="store_true", help="print one object")
    return flags


def main(flags: argparse.Namespace) -> None:
    from headwise.data.text import files, read_text
    from headwise.errors import require
    from headwise.evaluation import measure
    from headwise.hf import open_model
    from headwise.inference import for_inference
    from headwise.stream import source_of

    require(
        flags.data is None or not flags.split,
        f"--split {flags.split} is a part of the training's text; leave out --data",
    )
    checkpoint = open_model(flags.checkpoint)
    say(str(checkpoint.path))
    trained = checkpoint.about.get("config", {}).get("data")
    told = flags.data is not None or trained
    require(bool(told), f"{checkpoint.path} does not say what it was trained on; give --data PATH")
    if flags.data is not None:
        text, what = source_of(files(flags.data, "--data")), f"--data {flags.data}"
    else:
        both = read_text(*(trained.get(key) for key in ("source", "path", "val_path", "val_fraction", "skip_bad")))
        text, what = source_of(both.train if flags.split == "train" else both.val), "the text of the training"
    say(f"reading {text.characters:,} characters")
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
