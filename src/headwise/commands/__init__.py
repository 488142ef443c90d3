"""The command `headwise`: one module for each of its commands, and main.py, which selects one of them."""
