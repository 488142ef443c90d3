"""Text from a model: generate.py and sampling.py; fast.py and chat.py build on them."""
