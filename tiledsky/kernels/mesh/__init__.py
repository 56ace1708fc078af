"""The mesh as an image: fill, filter, error, spline, inverse distances."""

from tiledsky.kernels.mesh.mesh import spline_coefficients, spline_evaluate

__all__ = ["spline_coefficients", "spline_evaluate"]
