"""The command `headwise generate` from a checkout; python scripts/generate.py --help describes it."""

from headwise.commands.generate import main

if __name__ == "__main__":
    main()
