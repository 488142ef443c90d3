"""The command `headwise evaluate` from a checkout; python scripts/evaluate.py --help describes it."""

from headwise.commands.evaluate import main

if __name__ == "__main__":
    main()
