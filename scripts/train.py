"""The command `headwise train` from a checkout; python scripts/train.py --help describes it."""

from headwise.commands.train import main

if __name__ == "__main__":
    main()
