"""Arguments of the command line that are dangerous to repeat, and outputs that would take the place of something."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.report.conftest import make
from tiledsky import run
from tiledsky.errors import InputError, ParameterError
from tiledsky.report import save_figures

Call = Callable[..., tuple[int, str, str]]
SECRET = "SeCrEt123"
ADDRESSES = [
    f"s3://AKID:{SECRET}@sky/x.zarr", f"S3://AKID:{SECRET}@sky/x.fits:SCI", f"s3://AKID:{SECRET}@sky/x.reg",
    f"s3://AKID:a/{SECRET}@sky/x.zarr", f"s3:/AKID:{SECRET}@sky/x.zarr", f" s3://AKID:{SECRET}@sky/x.zarr",
    f"https://127.0.0.1:9/x.fits?X-Amz-Signature={SECRET}", f"https://127.0.0.1:9/x.zarr#{SECRET}",
    f"https://us er:{SECRET}@[bad/x.fits", f"https://h:{SECRET}/x", f"ftp://user:{SECRET}@h/x.fits",
    f"https://user:12/{SECRET}@h/x.fits", f"https:\\\\user:{SECRET}@h", f"tls://{SECRET}@h:8786",
    f"git+ssh://u:{SECRET}@h/x",
]  # fmt: skip
#: Commands with an address in each place that takes one, or takes none.
COMMANDS = [
    "run {} --recipe sextractor --out o.zarr", "run i.fits --recipe sextractor --out {}",
    "run i.fits --recipe {} --out o.zarr", "run i.fits --recipe sextractor --out o.zarr --mask {}",
    "run i.fits --recipe sextractor --out o.zarr --mask={}",
    "run i.fits --recipe sextractor --out o.zarr --cluster {}",
    "run i.fits --recipe sextractor --out o.zarr --scheduler {}",
    "run i.fits --recipe sextractor --out o.zarr --performance-report {}", "plan {} --recipe sextractor",
    "estimate {} e.fits --recipe sextractor", "estimate i.fits {} --recipe sextractor", "export o.zarr {}",
    "export {} e.fits", "info {}", "info i.fits {}", "info i.fits --hdu {}", "verify {}", "check {}",
    "inject {} --out n.zarr", "inject o.zarr --out {}", "publish o.zarr {}", "compare {} o.zarr",
    "compare o.zarr o.zarr --truth {}", "compare o.zarr o.zarr -o {}", "report {}", "report o.zarr --png {}",
    "view {} --no-browser", "view o.zarr --port {}", "ingest {} o.zarr", "ingest i.fits {}", "simulate {}",
    "simulate o.fits --truth {}", "merge-masks o.zarr {} --out m.zarr", "restore {} e.fits", "advise {}",
    "submit {} --recipe sextractor --out o.zarr --array 2", "cluster check {}", "cluster script {}",
    "recipes show {}", "{}",
]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS)
def test_secrets_in_arguments_are_not_repeated(
    call: Call, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for address in ADDRESSES:
        code, out, err = call(*(word.format(address) for word in words.split(" ")))
        assert (code, out) == (3, ""), address
        assert "an address must not contain a password, '?' or '#'" in err
        assert SECRET not in err
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", [*ADDRESSES, f"https://[::1/{SECRET}"])
@pytest.mark.parametrize("option", ["source", "out", "mask", "weight"])
def test_secrets_in_errors_from_python(address: str, option: str, tmp_path: Path) -> None:
    fits.writeto(tmp_path / "i.fits", np.random.default_rng(0).normal(9, 1, (70, 90)).astype(np.float32))
    given = {"source": str(tmp_path / "i.fits"), "out": tmp_path / "o.zarr", option: address}
    with pytest.raises(InputError, match=r"is not an address|an address must not contain a password") as caught:
        run(recipe="sextractor", **given)  # type: ignore[arg-type]
    assert SECRET not in f"{caught.value}{caught.value!r}"


@pytest.mark.parametrize("address", ["ftp://h/x.fits", "file:///etc/x.zarr", "gopher://h/x.reg"])
def test_addresses_that_are_not_served(address: str, call: Call, tmp_path: Path) -> None:
    fits.writeto(tmp_path / "i.fits", np.ones((70, 90), np.float32))
    code, _, err = call(
        "run", tmp_path / "i.fits", "--recipe", "sextractor", "--out", tmp_path / "o", "--mask", address
    )
    assert code == 3
    assert f"{address} is neither a path nor a known address; give one of s3://, gs://, az://, https://" in err


# --- outputs

#: Commands that write a file, with "{}" for it.
WRITING = [
    "estimate i.fits {} --recipe sextractor --overwrite", "export a.zarr {} --overwrite --planes mask",
    "restore a.zarr {} --overwrite", "simulate {} --size 100 --overwrite", "report a.zarr --out {}",
    "compare a.zarr b.zarr -o {}", "run i.fits --recipe sextractor --out o.zarr --performance-report {}",
]  # fmt: skip


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with an image and two finished runs."""
    folder = tmp_path_factory.mktemp("stores")
    fits.writeto(folder / "i.fits", np.random.default_rng(0).normal(10, 1, (100, 120)).astype(np.float32))
    for seed, name in enumerate("ab"):
        make(folder / f"{name}.zarr", seed=seed + 3)
    return folder


@pytest.mark.parametrize("kind", ["pipe", "link", "link to nowhere"])
@pytest.mark.parametrize("words", WRITING)
def test_pipes_and_links_stay(
    call: Call, stores: Path, words: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stores)
    thesis, out = tmp_path / "thesis.tex", tmp_path / "out.fits"
    thesis.write_text("years of work")
    if kind == "pipe":
        os.mkfifo(out)
    else:
        out.symlink_to(thesis if kind == "link" else tmp_path / "none")
    before = out.lstat()
    code, _, err = call(*words.format(out).split())
    assert code == 2, err
    assert f"{out} is a {'pipe' if kind == 'pipe' else 'link'}, and a file would take its place; name a file" in err
    assert stat.S_IFMT(out.lstat().st_mode) == stat.S_IFMT(before.st_mode)
    assert out.lstat().st_ino == before.st_ino
    assert thesis.read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.fits", "thesis.tex"]
    assert sorted(path.name for path in stores.iterdir()) == ["a.zarr", "b.zarr", "i.fits"]


def test_pages_and_figures_of_others_are_not_replaced(call: Call, stores: Path, tmp_path: Path) -> None:
    page, figure = tmp_path / "page.html", tmp_path / "residual.png"
    page.write_text("thesis")
    figure.write_text("thesis")
    a, b = stores / "a.zarr", stores / "b.zarr"
    run_it = ("run", stores / "i.fits", "--recipe", "sextractor", "--out", tmp_path / "o.zarr")
    for words in (("report", a, "-o", page), ("compare", a, b, "-o", page), (*run_it, "--performance-report", page)):
        code, _, err = call(*words)
        assert (code, page.read_text()) == (2, "thesis")
        assert "page.html was not written by tiledsky, so it is not replaced; name another, or remove it" in err
    with pytest.raises(ParameterError, match=r"residual\.png was not written by tiledsky"):
        save_figures(a, tmp_path)
    assert figure.read_text() == "thesis"
    page.unlink()
    assert [call("report", a, "-o", page)[0] for _ in range(2)] == [0, 0]  # its own it replaces
