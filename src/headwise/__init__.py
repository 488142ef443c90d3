"""Headwise: a minimal GPT framework in which attention can be seen.

The rooms, in the order in which they may import one another (tests/test_imports.py holds them to it): errors, cli,
files, model, tokenizer, checkpoint, data, generation, inspection, config, training, launch, then the scripts.
"""
