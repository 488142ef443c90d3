"""Text from a model: generate.py, sampling of it; fast.py and chat.py are optional."""
