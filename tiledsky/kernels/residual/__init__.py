"""Sums over cells and apertures of what the sky leaves."""
