"""Run stores of somebody else: every command refuses links, bombs and forged documents in them."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from astropy.io import fits
from zarr.codecs import GzipCodec, ZstdCodec

from tests.engine.scenes import make_planes
from tests.engine.stores import PLAIN, make_run
from tiledsky import Recipe, open_run, run
from tiledsky.cli import main
from tiledsky.engine.verify import verify
from tiledsky.errors import RunError
from tiledsky.io.store import json_bytes, sealed

SHAPE = (120, 130)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.fits"
    fits.PrimaryHDU(make_planes(SHAPE)["science"]).writeto(path)
    return path


def again(image: Path, out: Path, **options: Any) -> None:
    """Give the command that made the run."""
    run(image, Recipe.from_dict(PLAIN), out, tile_size=64, **options)


@pytest.fixture(scope="module")
def whole(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run.zarr"
    again(image, out)
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run.zarr"))


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder with files of names that commands know."""
    home = tmp_path / "home"
    (home / "c/0").mkdir(parents=True)
    for name in ("thesis", "zarr.json", "c/0/0", "0.0.json", "sky.json", "diagnostics.json"):
        (home / name).write_text(f"precious {name}")
    return home


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def put_link(root: Path, path: str, target: Path) -> None:
    place = root / path
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


LINKS = ("background", "subtracted/c", "run", "run/markers", "run/markers/output", "run/failed", "run/failed/output",
         "run/meshes", "run/thresholds", "run/summaries", "meshes", "meshes/sky/background")  # fmt: skip


@pytest.mark.parametrize("path", LINKS)
def test_links_to_folders(image: Path, copy: Path, precious: Path, path: str) -> None:
    (copy / "run/_SUCCESS").unlink()
    shutil.rmtree(copy / "run/markers/output")
    put_link(copy, path, precious)
    before = content(precious)
    uses: list[Callable[[], Any]] = [
        lambda: verify(copy),
        lambda: open_run(copy, allow_partial=True),
        lambda: again(image, copy),
        lambda: again(image, copy, restart=True),
    ]
    for use in uses:
        with pytest.raises(RunError, match="is a link, and a run store may contain only plain files and folders"):
            use()
    assert content(precious) == before


@pytest.mark.parametrize("kind", ["link", "new", "pipe"])
@pytest.mark.parametrize(
    "path", ["run/diagnostics.json", "run/plan.json", "background/c/0/0", "run/markers/output/0.0.json"]
)
def test_files_that_are_none_are_made_anew(image: Path, copy: Path, precious: Path, path: str, kind: str) -> None:
    before, expected = content(precious), (copy / path).stat().st_size
    (copy / "run/_SUCCESS").unlink()
    (copy / path).unlink()
    if kind == "pipe":
        os.mkfifo(copy / path)
    else:
        (copy / path).symlink_to(precious / ("thesis" if kind == "link" else "not there"))
    assert path in {fault.path for fault in verify(copy, discard=False)}
    again(image, copy)
    assert content(precious) == before
    assert not (copy / path).is_symlink()
    assert abs((copy / path).stat().st_size - expected) < 50  # markers hold times
    assert verify(copy) == []


def test_lock_that_is_a_link(image: Path, copy: Path, precious: Path) -> None:
    (copy / "run/_SUCCESS").unlink()
    for name in ("lock", "tasks.lock"):
        (copy / "run" / name).unlink(missing_ok=True)
        (copy / "run" / name).symlink_to(precious / "made by the lock")
        with pytest.raises((RunError, OSError), match="a link, which a run store does not have"):
            again(image, copy)
        (copy / "run" / name).unlink()
    assert not (precious / "made by the lock").exists()


def _digest(data: Any) -> str:
    return hashlib.blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=8).hexdigest()


def forge_plan(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Write another plan, and all checksums and digests of it."""
    plan = json.loads((root / "run/plan.json").read_text())
    change(plan)
    (root / "run/plan.json").write_bytes(json_bytes(plan))
    known = json.loads((root / "run/identity.json").read_text())
    known["files"]["run/plan.json"] = zlib.crc32(json_bytes(plan))
    known["identity"]["plan"] = _digest(plan)
    known["run_id"] = _digest(known["identity"])
    (root / "run/identity.json").write_bytes(json_bytes(sealed(known)))


def _output(plan: dict[str, Any]) -> dict[str, Any]:
    return next(stage for stage in plan["stages"] if stage["name"] == "output")


PLANS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "name": lambda plan: _output(plan).update(name="../../../home"),
    "step": lambda plan: plan["stages"][1].update(step="../home"),
    "kind": lambda plan: _output(plan).update(kind="ring"),
    "tile": lambda plan: _output(plan).update(tile=[1 << 20, 1 << 20]),
    "levels": lambda plan: _output(plan).update(levels=[4]),
    "fewer": lambda plan: plan["stages"].pop(),
    "size": lambda plan: plan.update(tile_size=1 << 40),
    "shape": lambda plan: plan.update(shape=[1 << 30, 1 << 30]),
    "negative": lambda plan: plan.update(shape=[-120, 130]),
    "type": lambda plan: plan.update(dtype="object"),
}


@pytest.mark.parametrize("change", PLANS.values(), ids=PLANS)
def test_plans_that_do_not_follow_from_the_recipe(image: Path, copy: Path, precious: Path, change: Any) -> None:
    forge_plan(copy, change)
    before = content(precious)
    with pytest.raises(RunError, match=r"plan\.json is no plan of its recipe by this version"):
        open_run(copy)
    with pytest.raises(RunError, match="plan"):
        verify(copy)
    # without a tile size the run would go on with the plan that it began with
    with pytest.raises(RunError, match=r"holds a run with another plan|damaged"):
        run(image, Recipe.from_dict(PLAIN), copy)
    assert content(precious) == before


def _group_of_format_2(root: Path, mark: Path) -> None:
    """The group in format 2, its planes objects that are unpickled."""

    class Run:
        def __reduce__(self) -> Any:
            return (Path.touch, (mark,))

    attributes = json.loads((root / "zarr.json").read_text())["attributes"]
    (root / "zarr.json").unlink()
    (root / ".zgroup").write_text('{"zarr_format": 2}')
    (root / ".zattrs").write_text(json.dumps(attributes))
    for name in ("background", "subtracted", "mask"):
        _pickles(root / name, Run())


def _pickles(folder: Path, held: Any) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    codecs = [{"id": "vlen-utf8"}, {"id": "pickle"}]
    stored = {"zarr_format": 2, "shape": SHAPE, "chunks": SHAPE, "dtype": "|O", "compressor": None, "fill_value": "",
              "order": "C", "filters": codecs}  # fmt: skip
    (folder / ".zarray").write_text(json.dumps(stored))
    (folder / "0.0").write_bytes(pickle.dumps(held, 2))


def test_nothing_is_unpickled(copy: Path, tmp_path: Path) -> None:
    _group_of_format_2(copy, tmp_path / "mark")
    out = str(tmp_path / "out.fits")
    for words in (["report", str(copy), "-o", out], ["export", str(copy), out], ["restore", str(copy), out],
                  ["verify", str(copy), "--level", "decode", "--dry-run"]):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == RunError.exit_code
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (4000, 4000)},
        {"chunks": (12000, 12000)},
        {"dtype": "float64"},
        {"dtype": "complex64"},
        {"compressors": GzipCodec()},
        {"compressors": ZstdCodec()},
        {"shards": (64 * 3, 64 * 3)},
        {"fill_value": 0.0},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"zarr_format": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_arrays_that_the_plan_does_not_have(copy: Path, options: dict[str, Any]) -> None:
    usual = {"shape": SHAPE, "dtype": "float32", "chunks": (64, 64), "fill_value": np.nan}
    shutil.rmtree(copy / "background")
    zarr.create_array(str(copy / "background"), **{**usual, **options})  # type: ignore[arg-type]
    opened = open_run(copy)
    tracemalloc.start()
    try:
        with pytest.raises(
            RunError,
            match=r"background: (the array does not match the "
            "plan|tiledsky cannot read the array)",
        ):
            opened.plane("background")
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
    assert opened.plane("subtracted").shape == SHAPE


def test_documents_of_another_run(copy: Path, tmp_path: Path) -> None:
    other = make_run(
        tmp_path / "other.zarr", {"background": np.zeros(SHAPE, np.float32)}, recipe={**PLAIN, "name": "other"}
    )
    for name, message in (("recipe.json", "recipe.json is not of this run"),
                          ("provenance.json", "provenance.json is missing or damaged")):  # fmt: skip
        before = (copy / "run" / name).read_bytes()
        shutil.copyfile(other / "run" / name, copy / "run" / name)
        with pytest.raises(RunError, match=message):
            open_run(copy)
        (copy / "run" / name).write_bytes(before)
    assert open_run(copy).recipe.name == "plain"
