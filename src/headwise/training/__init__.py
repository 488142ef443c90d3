"""Training: optim.py, schedule.py and module.py say how to learn, callbacks.py what to watch, run.py runs it."""
