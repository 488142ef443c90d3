"""The command `headwise prepare` from a checkout; python scripts/prepare_data.py --help describes it."""

from headwise.commands.prepare import main

if __name__ == "__main__":
    main()
