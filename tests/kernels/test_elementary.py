"""Exponential, logarithm, powers, angles and inverses against numpy in long double, and the same bits on other CPUs."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from tiledsky.kernels._simd.elementary import direction, exp, exps, inverse, log, logs, power, powers, sine_cosine
from tiledsky.kernels.filters.smooth import gaussian_taps
from tiledsky.kernels.fit.moments import taps

LONG = np.finfo(np.longdouble).nmant > 60


def last_places(found, expected):
    """Largest error in units of the last place."""
    return float(np.max(np.abs(found.astype(np.longdouble) - expected) / np.spacing(np.abs(expected.astype(float)))))


@pytest.mark.skipif(not LONG, reason="long double is no longer than double here")
@pytest.mark.parametrize("reach", [1e-6, 0.4, 40.0, 700.0])
def test_exponential(reach):
    x = np.random.default_rng(1).uniform(-reach, reach, 20_000)
    assert last_places(exps(x), np.exp(x.astype(np.longdouble))) < 0.9


@pytest.mark.skipif(not LONG, reason="long double is no longer than double here")
@pytest.mark.parametrize("reach", [1e-6, 0.4, 40.0, 700.0])
def test_logarithm(reach):
    x = np.exp(np.random.default_rng(2).uniform(-reach, reach, 20_000))
    assert last_places(logs(x), np.log(x.astype(np.longdouble))) < 0.9


def test_ends_of_the_range():
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 709.7, 709.8, -745.0, -746.0, -708.5])
    with np.errstate(over="ignore", under="ignore"):
        np.testing.assert_allclose(exps(x), np.exp(x), rtol=1e-15, atol=5e-324)
    x = np.array([np.nan, np.inf, 0.0, -1.0, 5e-324, 2.3e-308, 1.7e308, 1.0])
    with np.errstate(divide="ignore", invalid="ignore"):
        np.testing.assert_allclose(logs(x), np.log(x), rtol=1e-15)
    assert exp(0.0) == 1.0
    assert log(1.0) == 0.0


def test_powers():
    x = np.random.default_rng(3).uniform(0.1, 50.0, 500)
    for exponent in (0.0, 0.5, 1.0, 2.0, 3.0, 7.25, 20.0):
        found = np.array([power(v, exponent) for v in x])
        np.testing.assert_allclose(found, x**exponent, rtol=1e-13)
    assert power(0.0, 2.5) == 0.0
    np.testing.assert_allclose(powers(x, 5), [x**k for k in range(5)], rtol=1e-15)


def test_angles():
    angle = np.concatenate([np.random.default_rng(4).uniform(-np.pi, np.pi, 2000), [0.0, np.pi / 2, -np.pi, np.pi]])
    sine, cosine = np.transpose([sine_cosine(a) for a in angle])
    np.testing.assert_allclose(sine, np.sin(angle), rtol=0, atol=2e-15)
    np.testing.assert_allclose(cosine, np.cos(angle), rtol=0, atol=2e-15)
    y, x = np.random.default_rng(5).normal(size=(2, 2000)) * 10.0 ** np.random.default_rng(6).uniform(-9, 9, 2000)
    np.testing.assert_allclose([direction(*v) for v in zip(y, x, strict=True)], np.arctan2(y, x), rtol=2e-15)
    assert [direction(*v) for v in ((0.0, 0.0), (0.0, 2.0), (0.0, -1.0))] == [0.0, 0.0, np.pi]
    assert abs(direction(3.0, 0.0) - np.pi / 2) < 5e-16


@pytest.mark.parametrize("n", [1, 3, 6])
def test_inverse(n):
    half = np.random.default_rng(n).normal(size=(n, n + 3))
    matrix = half @ half.T
    np.testing.assert_allclose(inverse(matrix), np.linalg.inv(matrix), rtol=1e-10, atol=1e-12)
    turned = np.eye(n)[::-1].copy()  # no pivot stands on the diagonal
    np.testing.assert_array_equal(inverse(turned), turned)
    assert np.isinf(inverse(np.zeros((n, n)))).all()


def digest():
    """Of what Gaussians and powers are made with."""
    made = [
        exps(np.linspace(-40, 3, 5001)),
        logs(np.linspace(1e-9, 9, 5001)),
        taps(7.3, 40, 8),
        gaussian_taps(sigma=3.7),
        np.array([(*sine_cosine(a), direction(a, 1.3)) for a in np.linspace(-3.1, 3.1, 501)]),
    ]
    return hashlib.blake2b(b"".join(a.tobytes() for a in made), digest_size=16).hexdigest()


def test_same_bits_as_an_old_cpu():
    """numpy's loops and the C library's functions for CPUs without AVX-512, AVX2 and FMA."""
    old = {"NPY_DISABLE_CPU_FEATURES": "X86_V4", "OPENBLAS_CORETYPE": "Nehalem"}
    old["GLIBC_TUNABLES"] = "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA"
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        "from tests.kernels.test_elementary import digest; print(digest())",
    ]
    made = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **old}, check=True)
    assert made.stdout.strip() == digest()
