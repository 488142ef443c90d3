"""Text to batches: text.py -> packing.py -> sampler.py -> datamodule.py."""
