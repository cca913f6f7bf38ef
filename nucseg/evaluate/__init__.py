"""Scores of a segmentation or detection against ground truth, and selection by them."""
