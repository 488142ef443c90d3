"""Train a GPT and watch its attention: python scripts/train.py [key=value ...]; --help lists every key."""

import sys

from omegaconf import DictConfig

from headwise.config import launch


def main(config: DictConfig) -> None:
    if sys.stderr.isatty():
        print("headwise: loading torch and lightning, a few seconds", file=sys.stderr)
    from headwise.training.run import report, train

    print(report(train(config)))


if __name__ == "__main__":
    launch(main, "train")
