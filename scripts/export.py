"""The command `headwise export` from a checkout; python scripts/export.py --help describes it."""

from headwise.commands.export import main

if __name__ == "__main__":
    main()
