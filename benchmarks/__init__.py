"""Measured comparisons with what else does the job: `python -m benchmarks`, or one by its name."""
