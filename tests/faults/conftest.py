"""What the tests of faults share: an image, the bytes of an undisturbed run, and a count of what they try."""

from __future__ import annotations

from pathlib import Path

import pytest
from astropy.io import fits

from tests.engine.scenes import KEEPING, make_planes, stored_bytes
from tests.faults.ledger import Tally
from tiledsky import run

#: Side of the tiles: 2 x 3 of them.
TILE = 100


@pytest.fixture
def tally() -> Tally:
    """Count of the faults that a test tries."""
    return Tally()


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.fits"
    fits.PrimaryHDU(make_planes((190, 210))["science"]).writeto(path)
    return path


@pytest.fixture(scope="session")
def finished(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    return run(image, KEEPING, tmp_path_factory.mktemp("whole") / "run.zarr", tile_size=TILE).path


@pytest.fixture(scope="session")
def whole(finished: Path) -> dict[str, str]:
    """Digests of the files of an undisturbed run."""
    return stored_bytes(finished)
