"""Zarr arrays that cannot be trusted: refused from their metadata, by name, before a chunk is read."""

from __future__ import annotations

import json
import os
import pickle
import time
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, GzipCodec, TransposeCodec, ZstdCodec

from tiledsky.errors import InputError
from tiledsky.io.zarr.check import check_zarr_array, check_zarr_name, open_zarr, open_zarr_array

PIXELS = np.arange(2000).reshape(40, 50)


def _create(path: Path, **options: Any) -> Path:
    data = PIXELS.astype(options.pop("dtype", "f4"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numcodecs in format 3 are no part of the standard
        zarr.create_array(str(path), data=data, chunks=options.pop("chunks", (10, 10)), **options)
    return path


def _edit(path: Path, *keys: Any, value: Any) -> None:
    """Set a value deep in the metadata of an array."""
    file = path / "zarr.json"
    file = file if file.exists() else path / ".zarray"
    stored = json.loads(file.read_text())
    inner = stored
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    file.write_text(json.dumps(stored))


def _open(path: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_zarr_array(path, **options)


def _numcodec(name: str, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(zarr.codecs.numcodecs, name)(**options)


# ---------------------------------------------------------------- accepted


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "u2", ">i4", "u4", "i8", "u8", "f2", "f4", ">f8"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_numbers_are_accepted(tmp_path: Path, dtype: str, zarr_format: int) -> None:
    array = _open(_create(tmp_path / "a", dtype=dtype, zarr_format=zarr_format))
    np.testing.assert_array_equal(array[:], PIXELS.astype(dtype))


@pytest.mark.parametrize(
    "options",
    [
        {"shards": (20, 30)},
        {"shards": (20, 30), "compressors": [BloscCodec(), zarr.codecs.Crc32cCodec()]},
        {"compressors": None},
        {"compressors": [GzipCodec()]},
        {"compressors": [ZstdCodec(checksum=True)], "filters": [TransposeCodec(order=(1, 0))]},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"compressors": [_numcodec("LZ4")]},
        {"compressors": [_numcodec("Shuffle", elementsize=4), _numcodec("Zlib", level=1)]},
        {"compressors": [_numcodec("BZ2")]},
        {"compressors": [_numcodec("LZMA")]},
        {"filters": [_numcodec("Delta", dtype="<f4")]},
        {"filters": [_numcodec("FixedScaleOffset", offset=0, scale=1, dtype="<f4", astype="<i4")]},
        {"zarr_format": 2, "compressors": numcodecs.LZ4()},
        {"zarr_format": 2, "compressors": numcodecs.Blosc(), "filters": [numcodecs.Delta("<f4")]},
        {"zarr_format": 2, "compressors": numcodecs.Zlib(), "filters": [numcodecs.Shuffle(4)]},
        {"zarr_format": 2, "compressors": None},
        {"zarr_format": 2, "order": "F"},
        {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    ],
)
def test_usual_stores_are_accepted(tmp_path: Path, options: dict[str, Any]) -> None:
    np.testing.assert_array_equal(_open(_create(tmp_path / "a", **options))[:], PIXELS)


def test_chunks_behind_symbolic_links_are_accepted(tmp_path: Path) -> None:
    path = _create(tmp_path / "a")
    (path / "c" / "0").rename(tmp_path / "elsewhere")
    (path / "c" / "0").symlink_to(tmp_path / "elsewhere")
    np.testing.assert_array_equal(_open(path)[:], PIXELS)


# ---------------------------------------------------------------- refused


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    path, sprung = _create(tmp_path / "a", zarr_format=2, compressors=None), tmp_path / "sprung"
    _edit(path, "dtype", value="|O")
    _edit(path, "filters", value=[{"id": "pickle", "protocol": 5}])
    _edit(path, "fill_value", value=None)
    (path / "0.0").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(InputError, match=r"a: .*(pickle|object)"):
        _open(path)
    assert not sprung.exists()
    for key, codec in (("filters", [{"id": "pickle"}]), ("compressor", {"id": "pickle"})):
        _edit(path, "dtype", value="<f4")  # numbers that a codec unpickles: Zarr itself has no such type
        _edit(path, "filters", value=None)
        _edit(path, key, value=codec)
        with pytest.raises(InputError, match=r"a: .*pickle"):
            _open(path)
    assert not sprung.exists()


def test_codecs_are_checked_by_their_name_too(tmp_path: Path) -> None:
    """Whatever Zarr accepts one day: an array that says pickle is refused."""
    array = _open(_create(tmp_path / "a", zarr_format=2, compressors=None))
    object.__setattr__(array.metadata, "compressor", numcodecs.Pickle())
    with pytest.raises(InputError, match="uses the codec 'pickle'; these are trusted: adler32, bitround, blosc"):
        check_zarr_array("a", array)


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        ({"id": "json2"}, "json2"),
        ({"id": "msgpack2"}, "msgpack2"),
        ({"id": "vlen-utf8"}, "vlen-utf8"),
        ({"id": "categorize", "labels": ["a"], "dtype": "<U1"}, "codec 'categorize'"),
        ({"id": "astype", "encode_dtype": "<f4", "decode_dtype": "<f8"}, "codec 'astype'"),
        ({"id": "delta", "dtype": "<U4"}, "codec delta with dtype '<U4'; only numbers are read"),
        ({"id": "lzma", "format": 3, "filters": [{"id": 33, "dict_size": 1 << 30}]}, "codec lzma with filters"),
        ({"id": "no-such-codec"}, "no Zarr array or group .*no-such-codec"),
    ],
)
def test_codecs_of_format_2(tmp_path: Path, codec: dict[str, Any], message: str) -> None:
    path = _create(tmp_path / "a", zarr_format=2)
    _edit(path, "filters", value=[codec])
    with pytest.raises(InputError, match=rf"a: .*{message}"):
        _open(path)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["codecs", 1], {"name": "numcodecs.jenkins_lookup3", "configuration": {}}, "codec 'jenkins_lookup3'"),
        (["codecs", 1], {"name": "numcodecs.pickle"}, "no Zarr array or group .*numcodecs.pickle"),
        (["codecs", 1], {"name": "os.system"}, "no Zarr array or group .*os.system"),
        (["codecs", 0], {"name": "vlen-utf8"}, "codec 'vlen-utf8'"),
        (["data_type"], "string", r"a: "),
        (["data_type"], "complex128", r"a: .*(complex128|Invalid)"),
        (["data_type"], {"name": "numpy.datetime64", "configuration": {"unit": "s", "scale_factor": 1}}, r"a: "),
        (["shape"], [1 << 40, 1 << 40], "above 1099511627776 pixels"),
        (["shape"], [-1, 50], "no Zarr array or group"),
        (["chunk_grid", "configuration", "chunk_shape"], [1 << 20, 1 << 20], "chunks that take 4398046511104 bytes"),
        (["chunk_grid", "configuration", "chunk_shape"], [0, 10], r"has chunks of \(0, 10\)|no Zarr array or group"),
        (["chunk_grid", "configuration", "chunk_shape"], [10], "no Zarr array or group"),
        (["chunk_grid", "name"], "rectangular", "no Zarr array or group"),
        (["chunk_key_encoding", "name"], "../..", "no Zarr array or group"),
        (["chunk_key_encoding", "configuration", "separator"], "/../", "no Zarr array or group"),
        (["storage_transformers"], [{"name": "x"}], "storage.transformers"),
        (["codecs"], [], "no Zarr array or group"),
        (["zarr_format"], 4, "no Zarr array or group"),
    ],
)
def test_metadata_of_format_3(tmp_path: Path, keys: list[Any], value: Any, message: str) -> None:
    path = _create(tmp_path / "a")
    _edit(path, *keys, value=value)
    with pytest.raises(InputError, match=message) as error:
        _open(path)
    assert "a: " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["configuration", "codecs", 1], {"name": "numcodecs.quantize", "configuration": {"digits": 1}}, "'quantize'"),
        (
            ["configuration", "index_codecs", 1],
            {"name": "gzip", "configuration": {"level": 1}},
            r"packs the index of its shards with \['bytes', 'gzip'|no Zarr array or group .*index_codecs",  # Zarr's own
        ),
        (["configuration", "chunk_shape"], [0, 10], "a: "),
    ],
)
def test_codecs_within_shards(tmp_path: Path, keys: list[Any], value: Any, message: str) -> None:
    path = _create(tmp_path / "a", shards=(20, 30))
    _edit(path, "codecs", 0, *keys, value=value)
    with pytest.raises(InputError, match=message):
        _open(path)


def test_memory_of_a_chunk(tmp_path: Path) -> None:
    path = _create(tmp_path / "a", shards=(20, 30))  # inner chunks of 400 bytes, shards of 2400
    _open(path, chunk_bytes=400)
    with pytest.raises(InputError, match="has chunks that take 400 bytes, above 399; write it in smaller ones"):
        _open(path, chunk_bytes=399)
    stored = json.loads((path / "zarr.json").read_text())
    stored["codecs"].append({"name": "gzip", "configuration": {"level": 1}})  # a shard that must be unpacked whole
    (path / "zarr.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match="has chunks that take 2400 bytes, above 400"):
        _open(path, chunk_bytes=400)
    path = _create(tmp_path / "b", chunks=(1, 1), shards=(40, 50))
    _edit(path, "chunk_grid", "configuration", "chunk_shape", value=[1 << 12, 1 << 12])
    with pytest.raises(InputError, match="has 16777216 chunks in a shard"):
        _open(path)
    path = _create(tmp_path / "c", zarr_format=2)
    with pytest.raises(InputError, match="has chunks that take 400 bytes, above 399"):
        _open(path, chunk_bytes=399)


def test_names_that_lead_out_of_the_store(tmp_path: Path) -> None:
    for name in ("..", "../a", "/etc", "a/../../b", "", "a//b", "a\\..\\b", "a\0"):
        with pytest.raises(InputError, match="is not a name of an array in this group"):
            check_zarr_name(tmp_path, name)
    assert check_zarr_name(tmp_path, "a/b") == "a/b"


def test_metadata_of_a_group_do_not_speak_for_its_arrays(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "g"), mode="w")
    group.create_array("science", data=PIXELS.astype("f4"), chunks=(10, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(tmp_path / "g"))
    _edit(tmp_path / "g" / "science", "chunk_grid", "configuration", "chunk_shape", value=[1 << 20, 1 << 20])
    assert zarr.open_group(str(tmp_path / "g"), mode="r")["science"].chunks == (10, 10)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="has chunks that take"):
        check_zarr_array(tmp_path / "g" / "science", open_zarr(tmp_path / "g")["science"])  # type: ignore[index, arg-type]


def test_metadata_files_that_are_no_files(tmp_path: Path) -> None:
    path = _create(tmp_path / "a")
    for make in (os.mkfifo, lambda p: os.symlink("/dev/zero", p), os.mkdir):
        (path / "zarr.json").rmdir() if (path / "zarr.json").is_dir() else (path / "zarr.json").unlink()
        make(path / "zarr.json")
        began = time.monotonic()
        with pytest.raises(InputError, match=r"zarr\.json: is not a file"):
            _open(path)
        assert time.monotonic() - began < 5
    (path / "zarr.json").rmdir()
    with (path / "zarr.json").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(InputError, match=r"zarr\.json: is not a file, or has more"):
        _open(path)
    (path / "zarr.json").unlink()
    (path / "zarr.json").symlink_to(path / "zarr.json")
    with pytest.raises(InputError, match="no Zarr array or group"):
        _open(path)
    with pytest.raises(InputError, match="is a Zarr group, not an array"):
        _open(Path(str(zarr.open_group(str(tmp_path / "g"), mode="w").store_path.store.root)))  # type: ignore[attr-defined]


# ---------------------------------------------------------------- mutations

NASTY = (
    0, -1, 1, 2, 3, 1.5, 1e400, None, True, "", "x", "../x", [], {}, [0, 0], [10, 10], [1 << 62, 1 << 62], [40],
    [50, 40], 1 << 31, 1 << 63, 1 << 200, "float32", "float64", "object", "O", "|O", "<f4", ">i8", "<U4", "C", "F", ".",
    "/", "bytes", "gzip", "zstd", "blosc", "numcodecs.zlib", {"id": "pickle"}, {"name": "gzip"}, {"id": "zlib"}, "big",
    "NaN", [[1, 2], [3, 4]], {"name": "sharding_indexed", "configuration": {"chunk_shape": [5, 5]}},
)  # fmt: skip


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, value in inner for place in [(*path, key), *_places(value, (*path, key))]]


def _mutated(text: str, rng: np.random.Generator) -> str:
    action = rng.choice(["value", "value", "value", "value", "drop", "bytes", "cut"])
    if action == "cut":
        return text[: int(rng.integers(len(text)))]
    if action == "bytes":
        characters = list(text)
        for at in rng.integers(0, len(text), 3):
            characters[at] = chr(int(rng.integers(1, 300)))
        return "".join(characters)
    stored = json.loads(text)
    places = _places(stored)
    place = places[int(rng.integers(len(places)))]
    inner = stored
    for key in place[:-1]:
        inner = inner[key]
    if action == "drop":
        del inner[place[-1]]
    else:
        inner[place[-1]] = NASTY[int(rng.integers(len(NASTY)))]
    return json.dumps(stored)


@pytest.mark.parametrize(
    ("name", "options"),
    [("format 3", {}), ("format 3, sharded", {"shards": (20, 30)}), ("format 2", {"zarr_format": 2})],
)
def test_mutated_metadata(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    path = _create(tmp_path / "store", **options)
    file = path / ("zarr.json" if (path / "zarr.json").exists() else ".zarray")
    text = file.read_text()
    rng = np.random.default_rng(8)
    counts = {"refused": 0, "right": 0, "other shape or type": 0, "chunks that do not fit": 0}
    tracemalloc.start()
    for _ in range(100):
        mutated = _mutated(text, rng)
        file.write_text(mutated)
        tracemalloc.reset_peak()
        began = time.monotonic()
        try:
            array = _open(path)
        except InputError as error:
            message = str(error)
            assert "store" in message
            assert "\n" not in message
            counts["refused"] += 1
        else:
            assert array.dtype.kind in "biuf"
            if array.shape == (40, 50) and array.dtype == "f4":
                try:
                    right = np.array_equal(array[:], PIXELS)
                except Exception:  # the chunks are of another kind than the metadata say
                    right = False
                counts["right" if right else "chunks that do not fit"] += 1
                assert right or json.loads(mutated) != json.loads(text)
            else:
                counts["other shape or type"] += 1
        assert time.monotonic() - began < 5
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    assert counts["refused"] > 30
    assert counts["right"] > 0
    print(f"faults: Zarr {name}: 100 mutated metadata, 0 failures: {counts}")
