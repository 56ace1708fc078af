"""Measures of a run as ``run/diagnostics.json`` holds them, with numbers of the test's own."""

from __future__ import annotations

from typing import Any

import numpy as np


def diagnostics(shape: tuple[int, int], *, seed: int = 0, result: str = "warn") -> dict[str, Any]:
    """Every measure of an image of ``shape``, and a verdict with a line of each kind."""
    rng = np.random.default_rng(seed)
    widths = [2, 4, 8, 16, 32, 64]
    ratio = [1.0, 1.002, 1.01, 1.05, 1.13, 1.3]
    groups = []
    for k, name in enumerate(("masked", "unmasked", "control")):
        bias = [round(v, 5) for v in rng.normal(0.0005 * k, 0.001, 5)]
        binned = {"n": [100] * 5, "bias": bias, "error": [0.001] * 5}
        groups.append(
            {
                "name": name,
                "n": 500,
                "bias": 0.0005,
                "error": 0.0004,
                "z": 1.25,
                "by_flux": {"lower": [5.0, 10.0, 20.0, 50.0, 100.0], **binned},
                "by_size": {"lower": [0.5, 1.0, 1.5, 2.0, 3.0], **binned},
                "line_flux": {"slope": 0.001, "slope_error": 0.0008, "z": 1.2},
                "line_size": {"slope": None, "slope_error": None, "z": None},
            }
        )
    distance = [-16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16, 32]
    edges = np.linspace(-0.5, 0.5, 61)
    counts = np.rint(1e5 * np.exp(-0.5 * ((edges[1:] + edges[:-1]) / 0.2) ** 2)).astype(int)
    positions = [
        {
            "y": shape[0] * fy,
            "x": shape[1] * fx,
            "ra": 150.1,
            "dec": 2.25,
            "size": 16,
            "mean": -0.05,
            "significance": s,
        }
        for fy, fx, s in ((0.3, 0.4, -6.1), (0.02, 0.5, 5.5), (0.7, 0.99, 4.4))
    ]
    checks = [
        ("negative", "negative_significance", -8.5, 0, "sigma", 6, 8, "fail", "Noise alone gives 5 in a million."),
        ("worst", "worst_block", 6.1, 0, "sigma", 6, 20, "warn", "The sky is wrong there."),
        (
            "scale",
            "scale_excess",
            0.12,
            0.03,
            "1",
            0.1,
            0.5,
            "warn",
            "Blocks scatter more than white noise: structure.",
        ),
        ("masked_bias", "masked_bias", 0.011, 0.004, "sigma", 0.03, 0.1, "pass", "Light of sources under the mask."),
        ("seams", "seam_step", 0.0, None, "image", 1e-6, 1e-5, "pass", "Tiles must not show."),
        ("edges", "edge_light", 9.0, 0.5, "sigma", 4, 8, "fail", "The background includes light that masks miss."),
        ("injection", "lost_flux", None, None, "1", 0.01, 0.05, "not measured", "No sources were injected."),
    ]
    keys = ("measure", "name", "value", "error", "unit", "warn", "fail", "result", "reason")
    return {
        "version": 1,
        "image": {
            "shape": list(shape),
            "noise": 0.0998,
            "noise_unit": "image",
            "bunit": "MJy/sr",
            "patch": 64,
            "masked_fraction": 0.41,
            "invalid_fraction": 0.012,
            "n_patches": 256,
        },
        "measures": {
            "scale": {
                "definition": "rms of means of blocks over that of white noise <of the pixels>",
                "unit": "1",
                "widths": widths,
                "ratio": ratio,
                "ratio_error": [0.001, 0.002, 0.005, 0.01, 0.04, 0.1],
                "expected": [1.0] * 6,
                "against_weights": None,
                "truth": None,
            },
            "masked_bias": {
                "definition": "bias under the mask",
                "groups": [
                    {"name": n, "bias": 0.0005 * k, "error": 0.0004, "z": 1.2, "notebook": {"difference": 0.0123}}
                    for k, n in enumerate(("all", "bright", "faint", "tier 1"))
                ],
            },
            "edges": {
                "definition": "across edges",
                "distance": distance,
                "distance_end": [*distance[1:], 64],
                "background": [0.001] * 12,
                "background_error": [0.001] * 12,
                "residual": [0.3] * 5 + [0.01, 0.008, 0.004, 0.002, 0.0, 0.0, None],
                "residual_error": [0.001] * 12,
            },
            "positions": {"definition": "bias under sources", "groups": groups},
            "residual": {
                "definition": "unmasked pixels",
                "mean": 0.0004,
                "mean_error": 0.0002,
                "median": 0.0,
                "std": 0.2,
                "skewness": 0.02,
                "skewness_error": 0.01,
                "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
                "correlation": {
                    "lag": [0, 1, 2, 3, 4],
                    "x": [1, 0.2, 0.05, 0, 0],
                    "y": [1, 0.18, 0.04, 0, 0],
                    "error": [0, 0.001, 0.001, 0.001, 0.001],
                    "length": 0.7,
                    "length_unit": "px",
                },
                "power": {
                    "width": [1, 2, 4, 8, 16, 32],
                    "variance": [0.0075 / 4**k for k in range(6)],
                    "white": [0.0074 / 4**k for k in range(6)],
                    "error": [1e-5 / 4**k for k in range(6)],
                },
            },
            "negative": {
                "definition": "connected blocks below the threshold",
                "n_regions": 1,
                "strongest": {"area": 768, "significance": -8.5, "y": 80.0, "x": 100.0},
                "area": 768,
                "regions": [{"area": 768, "significance": -8.5, "y": 80.0, "x": 100.0}],
            },
            "worst": {"definition": "largest means of blocks", "unit": "sigma", "block": 16, "positions": positions},
            "box_size": None,
        },
        "verdict": {"result": result, "checks": [dict(zip(keys, check, strict=True)) for check in checks]},
    }
