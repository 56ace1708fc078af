"""Recipes on numpy and dask arrays, lazily, and the contract of photutils' Background2D."""
