"""Exact statistics of any number of pixels: histograms, refinement, sums, biweights; merged in any order."""
