"""Text to batches: text.py -> packing.py -> sampler.py -> batches.py -> datamodule.py."""
