"""Training: train.py runs it, lightning_module.py computes the loss, optimizers.py and schedules.py the updates."""
