"""Zarr: arrays of any writer checked and read, shards written whole."""
