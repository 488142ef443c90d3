"""Text to batches: sources.py -> readers.py -> token_files.py -> sampler.py -> datamodule.py."""
