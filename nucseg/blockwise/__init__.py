"""Blockwise tasks on daisy: predict, segment and measure volumes of any size."""
