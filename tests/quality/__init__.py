"""Measures and verdict beside the truth on simulated scenes: `make quality` writes docs/quality-numbers.md."""
