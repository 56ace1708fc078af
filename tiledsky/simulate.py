"""A pathological sky of any size, with its truth: gradient, sinc blemishes, noise and galaxies.

The scene is the one of the "Complex 2D Background" notebook (STScI data analysis tools), at any size and
independent of chunks: every pixel belongs to one fixed block of 256 x 256 pixels anchored at pixel (0, 0), and a
block is always computed whole, from the catalogue and its own noise stream. A region is cut out of its blocks, so
that its bits cannot depend on how the image is divided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiledsky.errors import ParameterError
from tiledsky.kernels import njit

BLOCK_SIZE = 256  # side of the fixed pixel blocks; another value is another noise
MIN_STDDEV = 1e-3  # of a source, in pixels, so that amplitudes stay finite
CUTOFF_SIGMA = 8.0  # a source is zero outside its own 8-sigma ellipse: exp(-32) = 1.3e-14 of its amplitude
MIN_WIDTH, WIDTH_RANGE = 30.0, 100.0  # blemish widths are uniform in 30 .. 130 pixels
# The blemishes are band-limited at 1/30 rad a pixel: ten-point Lagrange interpolation of values 16 pixels apart leaves
# h^10 |f^(10)| 872/10! < 4e-8 of the amplitude, as |f^(10)| <= 30^-10 / 11, and needs 100 times fewer sines.
NODE_STEP, N_TAPS = 16, 10

SOURCE_DTYPE = np.dtype(
    [(name, np.float64) for name in ("x_mean", "y_mean", "flux", "x_stddev", "y_stddev", "re", "theta", "amplitude")]
)
BLEMISH_DTYPE = np.dtype([(name, np.float64) for name in ("x", "y", "width", "amplitude")])

Part = Literal["image", "sky", "sources"]
FloatArray = NDArray[Any]


@dataclass(frozen=True)
class SceneParameters:
    """What defines a scene; see `simulate_scene` for the meaning. Equal parameters are equal pixels."""

    shape: tuple[int, int]
    seed: int
    noise: float
    gradient: tuple[float, float]
    n_blemishes: int
    n_sources: int
    flux_max: float
    stddev_max: float
    dtype: str

    def __post_init__(self) -> None:
        fits = len(self.shape) == 2 and all(_is_count(n, 2**31) and n >= 4 for n in self.shape)
        _require(fits, f"shape {self.shape} is not two whole numbers >= 4: sources keep off the edges; change shape")
        fits = _is_count(self.seed, 2**32)
        _require(fits, f"seed {self.seed} is not in 0 .. 2**32 - 1, so noise streams could coincide; change seed")
        for name, most in (("n_blemishes", 10**5), ("n_sources", 2**25)):  # 72 bytes a source, in every process
            value, advice = getattr(self, name), f"change {name}, or make the shape smaller"
            _require(_is_count(value, most + 1), f"{name} {value} is not a whole number of 0 to {most}; {advice}")
        for name, limit in (("noise", 1e30), ("flux_max", 1e30), ("stddev_max", 1e4)):
            value = getattr(self, name)
            _require(0 <= value <= limit, f"{name} {value} is not of 0 to {limit:g}: no such scene; change {name}")
        fits = len(self.gradient) == 2 and all(math.isfinite(rise) for rise in self.gradient)
        _require(fits, f"gradient {self.gradient} is not a finite rise along y and one along x; change gradient")
        fits = self.dtype in ("float32", "float64")
        _require(fits, f"dtype {self.dtype} cannot hold a sky with its noise; use dtype='float32' or 'float64'")


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Sources and blemishes of a scene, and where the sources are.

    The tables are those of `Scene`. Sources whose centres lie in block ``b`` (blocks counted row by row) are
    ``by_block[block_start[b]:block_start[b + 1]]``; none reaches farther than `reach` blocks.
    """

    parameters: SceneParameters
    sources: NDArray[Any]
    blemishes: NDArray[Any]
    by_block: NDArray[np.intp]
    block_start: NDArray[np.intp]
    reach: int


@dataclass(frozen=True, eq=False)
class Scene:
    """A simulated image and its truth.

    Attributes
    ----------
    image, sky : numpy or dask array, shape (ny, nx)
        Sky + sources + noise, and the noiseless sky in it: what a background estimate should find.
    sources : structured ndarray
        ``x_mean, y_mean, x_stddev, y_stddev`` [pixel], ``flux`` (total), ``re`` (geometric mean of the two axes),
        ``theta`` [radian, from x towards y], ``amplitude = flux / (2 pi x_stddev y_stddev)``. Read-only.
    blemishes : structured ndarray
        ``x, y, width`` [pixel], ``amplitude``. Read-only.
    catalogue : Catalogue
        For `scene_block`.
    """

    image: Any
    sky: Any
    sources: NDArray[Any]
    blemishes: NDArray[Any]
    catalogue: Catalogue

    @property
    def source_image(self) -> Any:
        """The sources alone, noiseless; made anew at each access, numpy or lazy dask as `image`."""
        chunks = getattr(self.image, "chunks", None)
        if chunks is not None:
            return _lazy(self.catalogue.parameters, "sources", chunks)
        return scene_block(self.catalogue, 0, self.image.shape[0], 0, self.image.shape[1], part="sources")


def simulate_scene(
    shape: tuple[int, int],
    *,
    seed: int,
    chunks: Any = None,
    noise: float = 0.1,
    gradient: tuple[float, float] = (1.0, 0.25),
    n_blemishes: int | None = None,
    n_sources: int | None = None,
    flux_max: float = 50.0,
    stddev_max: float = 5.0,
    dtype: DTypeLike = np.float32,
) -> Scene:
    """Simulate a complex sky with galaxies, and keep the truth.

    Sky: ``gradient[0] y / ny + gradient[1] x / nx`` plus blemishes ``a sin(r/w) / (r/w)`` over the whole image, their
    centres uniform in the image, ``w`` in 30 .. 130 pixels, ``a`` in 0 .. 1. Sources: elliptical Gaussians, sampled at
    the pixel centres, with uniform position (2 pixels from the edges), total flux, axes and angle. Noise: Gaussian.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns, each at least 4.
    seed : int
        0 <= seed < 2**32. The same seed and parameters give the same bits, whatever the chunks.
    chunks : optional
        None makes numpy arrays now. Otherwise anything that dask understands as chunks: lazy dask arrays.
    noise : float
        Standard deviation of the noise.
    gradient : (float, float)
        Rise of the sky along y and along x, over the whole image.
    n_blemishes, n_sources : int, optional
        Default 16 and 5000 at 2000 x 2000; blemishes grow with the side, sqrt(ny nx), sources with the area.
    flux_max, stddev_max : float
        Total fluxes and standard deviations are uniform from 0 to these; standard deviations at least 0.001 pixel.
    dtype : float32 or float64
        Of the images. All sums are in float64; `sky` is rounded to `dtype` before sources and noise are added.

    Returns
    -------
    Scene

    Raises
    ------
    ParameterError
        A parameter out of its range.

    Notes
    -----
    A source much narrower than a pixel keeps its amplitude, as in the notebook, but not its flux: the pixels sample it
    and nothing more. The flux in the pixels equals the catalogue's from about 1 pixel of standard deviation upwards.
    The sky is interpolated from exact values every 16 pixels: within 1e-7 of the formula, and `sky` is what was used.

    Halo: none. Memory of a task: its chunk, a few blocks (0.5 MB each) and, once per process, the catalogue:
    about 72 bytes a source (36 MB at 20000 x 20000). The tasks draw it anew from the seed, so graphs stay small.

    """
    area = abs(math.prod(shape))
    parameters = SceneParameters(
        shape=cast("tuple[int, int]", tuple(shape)),
        seed=seed,
        noise=float(noise),
        gradient=cast("tuple[float, float]", tuple(float(rise) for rise in gradient)),
        n_blemishes=round(16 * math.sqrt(area) / 2000) if n_blemishes is None else n_blemishes,
        n_sources=round(5000 * area / 2000**2) if n_sources is None else n_sources,
        flux_max=float(flux_max),
        stddev_max=float(stddev_max),
        dtype=np.dtype(dtype).name,
    )
    catalogue = _cached_catalogue(parameters)
    if chunks is None:
        image, sky = _render(catalogue, (0, shape[0], 0, shape[1]), ("image", "sky"))
    else:
        image, sky = _lazy(parameters, "image", chunks), _lazy(parameters, "sky", chunks)
    return Scene(image, sky, catalogue.sources, catalogue.blemishes, catalogue)


def scene_block(catalogue: Catalogue, y0: int, y1: int, x0: int, x1: int, *, part: Part = "image") -> FloatArray:
    """Return the pixels ``[y0:y1, x0:x1]`` of a scene.

    Parameters
    ----------
    catalogue : Catalogue
        From `make_catalogue` or ``scene.catalogue``.
    y0, y1, x0, x1 : int
        Region, inside the image and not empty; otherwise ParameterError.
    part : {"image", "sky", "sources"}
        Everything, the noiseless sky, or the noiseless sources alone.

    Returns
    -------
    ndarray, shape (y1 - y0, x1 - x0)
        Of the scene's dtype; the same bits as the same pixels of any other region.
    """
    ny, nx = catalogue.parameters.shape
    fits = 0 <= y0 < y1 <= ny and 0 <= x0 < x1 <= nx
    _require(fits, f"region [{y0}:{y1}, {x0}:{x1}] is empty or leaves the {ny} x {nx} scene; change y0, y1, x0, x1")
    _require(part in ("image", "sky", "sources"), f"a scene has no part {part!r}; use part='image', 'sky' or 'sources'")
    return _render(catalogue, (y0, y1, x0, x1), (part,))[0]


def make_catalogue(parameters: SceneParameters) -> Catalogue:
    """Draw the sources and blemishes of a scene, and sort the sources into pixel blocks.

    They come from ``default_rng([seed, 0])``; the number and order of the draws is part of the definition of a scene.
    """
    ny, nx = parameters.shape
    rng = np.random.default_rng([parameters.seed, 0])
    blemishes = np.empty(parameters.n_blemishes, dtype=BLEMISH_DTYPE)
    blemishes["y"] = ny * rng.random(parameters.n_blemishes)
    blemishes["x"] = nx * rng.random(parameters.n_blemishes)
    blemishes["width"] = MIN_WIDTH + WIDTH_RANGE * rng.random(parameters.n_blemishes)
    blemishes["amplitude"] = rng.random(parameters.n_blemishes)

    sources = np.empty(n := parameters.n_sources, dtype=SOURCE_DTYPE)
    sources["x_mean"] = 2.0 + (nx - 4.0) * rng.random(n)
    sources["y_mean"] = 2.0 + (ny - 4.0) * rng.random(n)
    sources["flux"] = parameters.flux_max * rng.random(n)
    sources["x_stddev"] = np.maximum(parameters.stddev_max * rng.random(n), MIN_STDDEV)
    sources["y_stddev"] = np.maximum(parameters.stddev_max * rng.random(n), MIN_STDDEV)
    sources["re"] = np.sqrt(sources["x_stddev"] * sources["y_stddev"])
    sources["theta"] = np.pi * rng.random(n)
    sources["amplitude"] = sources["flux"] / (2.0 * np.pi * sources["x_stddev"] * sources["y_stddev"])
    # the tables are shared by every scene of these parameters in this process
    sources.flags.writeable = blemishes.flags.writeable = False
    n_by, n_bx = -(-ny // BLOCK_SIZE), -(-nx // BLOCK_SIZE)
    block = (sources["y_mean"] // BLOCK_SIZE * n_bx + sources["x_mean"] // BLOCK_SIZE).astype(np.intp)
    by_block = np.argsort(block, kind="stable")
    start = np.searchsorted(block[by_block], np.arange(n_by * n_bx + 1))
    widest = max(sources["x_stddev"].max(initial=0.0), sources["y_stddev"].max(initial=0.0))
    return Catalogue(parameters, sources, blemishes, by_block, start, math.ceil(CUTOFF_SIGMA * widest / BLOCK_SIZE))


_cached_catalogue = lru_cache(maxsize=2)(make_catalogue)


def _is_count(value: object, limit: int) -> bool:
    """Tell whether value is an integer with 0 <= value < limit."""
    return isinstance(value, int | np.integer) and bool(0 <= value < limit)


def _require(fits: bool, message: str) -> None:
    """Raise ParameterError(message) unless it fits."""
    if not fits:
        raise ParameterError(message)


def _lazy(parameters: SceneParameters, part: Part, chunks: Any) -> Any:
    """Build the dask array of one part; the graph holds the parameters only, not the catalogue."""
    import dask.array as da

    template = np.empty((0, 0), dtype=parameters.dtype)
    normal = da.core.normalize_chunks(chunks, shape=parameters.shape, dtype=template.dtype)
    where = {"chunks": normal, "dtype": template.dtype, "meta": template, "token": f"scene-{part}"}
    return da.map_blocks(_chunk, parameters=parameters, part=part, **where)


def _chunk(*, parameters: SceneParameters, part: Part, block_info: Any = None) -> FloatArray:
    """Compute one dask chunk."""
    (y0, y1), (x0, x1) = block_info[None]["array-location"]
    return scene_block(_cached_catalogue(parameters), y0, y1, x0, x1, part=part)


def _render(catalogue: Catalogue, region: tuple[int, int, int, int], parts: tuple[Part, ...]) -> list[FloatArray]:
    """Cut the region out of its blocks, for each of the parts."""
    y0, y1, x0, x1 = region
    out = [np.empty((y1 - y0, x1 - x0), dtype=catalogue.parameters.dtype) for _ in parts]
    for by in range(y0 // BLOCK_SIZE, -(-y1 // BLOCK_SIZE)):
        top, bottom = max(y0, by * BLOCK_SIZE), min(y1, (by + 1) * BLOCK_SIZE)
        rows = slice(top - by * BLOCK_SIZE, bottom - by * BLOCK_SIZE)
        for bx in range(x0 // BLOCK_SIZE, -(-x1 // BLOCK_SIZE)):
            left, right = max(x0, bx * BLOCK_SIZE), min(x1, (bx + 1) * BLOCK_SIZE)
            columns = slice(left - bx * BLOCK_SIZE, right - bx * BLOCK_SIZE)
            for plane, block in zip(out, _render_block(catalogue, by, bx, parts), strict=True):
                plane[top - y0 : bottom - y0, left - x0 : right - x0] = block[rows, columns]
    return out


def _render_block(catalogue: Catalogue, by: int, bx: int, parts: tuple[Part, ...]) -> list[FloatArray]:
    """Compute one whole block, float64 or (sky) rounded to the scene's dtype."""
    parameters, blocks = catalogue.parameters, dict[str, FloatArray]()
    if "sky" in parts or "image" in parts:
        x, y, width, amplitude = (catalogue.blemishes[name] for name in BLEMISH_DTYPE.names or ())
        scale = (*parameters.gradient, *parameters.shape)
        sky = _sky_block(by, bx, x, y, width, amplitude, _lagrange_weights(), scale)
        # rounded before anything is added: the truth handed out is the truth that is in the image
        blocks["sky"] = sky.astype(parameters.dtype)
    if "sources" in parts or "image" in parts:
        blocks["sources"] = _source_block(catalogue, by, bx)
    if "image" in parts:
        image = blocks["image"] = blocks["sources"] + blocks["sky"]
        if parameters.noise > 0:
            rng = np.random.default_rng(np.random.SeedSequence([parameters.seed, 1, by, bx]))
            image += parameters.noise * rng.standard_normal((BLOCK_SIZE, BLOCK_SIZE))
    return [blocks[part] for part in parts]


def _source_block(catalogue: Catalogue, by: int, bx: int) -> NDArray[np.float64]:
    """Sum the sources of one block, in catalogue order."""
    n_by, n_bx = (-(-side // BLOCK_SIZE) for side in catalogue.parameters.shape)
    first, last = max(bx - catalogue.reach, 0), min(bx + catalogue.reach, n_bx - 1)
    near = [np.empty(0, dtype=np.intp)]
    for row in range(max(by - catalogue.reach, 0), min(by + catalogue.reach, n_by - 1) + 1):
        # the blocks of one row are neighbours in the list
        ends = slice(catalogue.block_start[row * n_bx + first], catalogue.block_start[row * n_bx + last + 1])
        near.append(catalogue.by_block[ends])
    sources = catalogue.sources[np.sort(np.concatenate(near))]
    columns = [sources[name] for name in ("x_mean", "y_mean", "x_stddev", "y_stddev", "theta", "amplitude")]
    out = np.zeros((BLOCK_SIZE, BLOCK_SIZE))
    _add_sources(out, (by * BLOCK_SIZE, bx * BLOCK_SIZE), *columns)
    return out


@lru_cache(maxsize=1)
def _lagrange_weights() -> NDArray[np.float64]:
    """Weights of the N_TAPS nodes around an interval, for each pixel of it: shape (N_TAPS, NODE_STEP)."""
    nodes = np.arange(N_TAPS) - (N_TAPS // 2 - 1.0)
    position = np.arange(NODE_STEP)[:, np.newaxis] / NODE_STEP
    weights = np.empty((N_TAPS, NODE_STEP))
    for k in range(N_TAPS):
        others = np.delete(nodes, k)
        weights[k] = np.prod((position - others) / (nodes[k] - others), axis=1)
    return weights


@njit(nogil=True, cache=True)
def _sky_block(by, bx, x, y, width, amplitude, weights, scale):  # type: ignore[no-untyped-def]
    """Sky of one block: blemishes at the nodes, interpolated along y, then along x, plus the gradient."""
    slope_y, slope_x, ny, nx = scale
    n_nodes = BLOCK_SIZE // NODE_STEP + N_TAPS - 1
    first_y = by * BLOCK_SIZE - (N_TAPS // 2 - 1) * NODE_STEP
    first_x = bx * BLOCK_SIZE - (N_TAPS // 2 - 1) * NODE_STEP
    nodes = np.zeros((n_nodes, n_nodes))
    for b in range(x.size):
        for j in range(n_nodes):
            dy = first_y + j * NODE_STEP - y[b]
            for i in range(n_nodes):
                dx = first_x + i * NODE_STEP - x[b]
                t = math.sqrt(dx * dx + dy * dy) / width[b]
                nodes[j, i] += amplitude[b] * (math.sin(t) / t if t > 0.0 else 1.0)

    out = np.empty((BLOCK_SIZE, BLOCK_SIZE))
    line, values = np.empty(n_nodes), np.empty(NODE_STEP)
    for row in range(BLOCK_SIZE):
        j, phase = row // NODE_STEP, row % NODE_STEP
        line[:] = 0.0
        for k in range(N_TAPS):
            for i in range(n_nodes):
                line[i] += weights[k, phase] * nodes[j + k, i]
        rise_y = slope_y * (by * BLOCK_SIZE + row) / ny
        for i in range(BLOCK_SIZE // NODE_STEP):
            values[:] = 0.0
            for k in range(N_TAPS):
                for p in range(NODE_STEP):
                    values[p] += weights[k, p] * line[i + k]
            for p in range(NODE_STEP):
                column = i * NODE_STEP + p
                out[row, column] = values[p] + (rise_y + slope_x * (bx * BLOCK_SIZE + column) / nx)
    return out


@njit(nogil=True, cache=True)
def _add_sources(out, corner, x, y, x_stddev, y_stddev, theta, amplitude):  # type: ignore[no-untyped-def]
    """Add the sources to `out`, whose first pixel is `corner`, one after the other."""
    top, left = corner
    limit = 0.5 * CUTOFF_SIGMA * CUTOFF_SIGMA
    for i in range(x.size):
        c, s = math.cos(theta[i]), math.sin(theta[i])
        half_x = CUTOFF_SIGMA * math.sqrt((x_stddev[i] * c) ** 2 + (y_stddev[i] * s) ** 2)
        half_y = CUTOFF_SIGMA * math.sqrt((x_stddev[i] * s) ** 2 + (y_stddev[i] * c) ** 2)
        first_row = max(math.ceil(y[i] - half_y) - top, 0)
        last_row = min(math.floor(y[i] + half_y) - top, out.shape[0] - 1)
        first_column = max(math.ceil(x[i] - half_x) - left, 0)
        last_column = min(math.floor(x[i] + half_x) - left, out.shape[1] - 1)
        for row in range(first_row, last_row + 1):
            dy = top + row - y[i]
            for column in range(first_column, last_column + 1):
                dx = left + column - x[i]
                u = (dx * c + dy * s) / x_stddev[i]
                v = (dy * c - dx * s) / y_stddev[i]
                q = 0.5 * (u * u + v * v)
                if q <= limit:
                    out[row, column] += amplitude[i] * math.exp(-q)
