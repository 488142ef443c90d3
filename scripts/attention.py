"""The command `headwise attention` from a checkout; python scripts/attention.py --help describes it."""

from headwise.commands.attention import main

if __name__ == "__main__":
    main()
