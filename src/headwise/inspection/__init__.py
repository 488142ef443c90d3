"""Seeing attention: hooks.py takes the maps, head_scores.py scores them, plots.py draws them, recorder.py does all
three while a model trains."""
