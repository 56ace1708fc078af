"""Filters of pixels: ring median, smoothing, means of blocks."""
