"""Kernels of the footprints step: sums over blocks that edges of footprints cross, and the terms that follow."""
