"""Seeing attention: capture.py takes the maps, heads.py scores them, plots.py draws them, recorder.py does all
three while a model trains."""
