"""The command `headwise sweep` from a checkout; python scripts/sweep.py --help describes it."""

from headwise.commands.sweep import main

if __name__ == "__main__":
    main()
