"""The model, needing torch alone. Import from its files: `from headwise.model.gpt import GPT`.

Nothing is imported here, so that the configuration (config.py) can be read without waiting for torch.
"""
