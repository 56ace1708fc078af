"""The mesh as an image: fill, filter, error, spline, inverse distances."""
