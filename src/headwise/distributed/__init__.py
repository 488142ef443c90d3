"""Several devices: processes, strategies, and an estimate of what a run costs."""
