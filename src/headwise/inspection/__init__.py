"""Inspect attention: hooks.py captures attention maps, head_scores.py and effects.py measure heads, plots.py and page/
show them, recorder.py does all of this while a model trains, snapshot.py for a finished model."""
