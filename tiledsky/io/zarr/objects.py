"""Objects of a Zarr array: which are there, and which would be read as fill value without a word.

Zarr leaves out chunks that are all fill value, so that a missing object is no damage by itself. What tiledsky writes
has every object, and says so: there a missing one is lost. Of other arrays what is missing is counted and told. An
object without a byte is damage anywhere. What the index of a shard calls missing was never written: a chunk that was
has its place in the index, and the index a checksum.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from tiledsky.errors import InputError
from tiledsky.geometry import Region
from tiledsky.io.address import Place
from tiledsky.io.folders import folder_at

#: Attribute of an array all of whose objects were written (1), and of a group of such arrays (their names).
WHOLE = "tiledsky_whole"


@dataclass(frozen=True)
class MissingObjects:
    """Objects of an array that are not there.

    Attributes
    ----------
    count, total : int
    first : str
        Key of one of them.
    region : Region
        Its pixels.
    """

    count: int
    total: int
    first: str
    region: Region

    def __str__(self) -> str:
        region = self.region
        where = f"rows {region.y0}:{region.y1}, columns {region.x0}:{region.x1}"
        return f"{self.count} of {self.total} objects are missing, the first is {self.first} ({where})"


def look_at_objects(path: Place, array: Any) -> tuple[str, MissingObjects | None]:
    """Return a digest of names, sizes and times of an array's files, and which objects are missing.

    Of a web address, which lists nothing, the digest is that of the metadata, and objects are asked for one by one if
    all of them must be there.

    Raises
    ------
    InputError
        A file that cannot be read, or an object without a byte.
    RunError
        The store does not answer.
    """
    listing = folder_at(path).listing()
    digest = hashlib.blake2b(digest_size=16)
    for name, (size, tag) in sorted(listing.items()):
        digest.update(f"{name} {size} {tag}\n".encode())
    return digest.hexdigest(), _missing(path, array, listing)


def consolidated_names(path: Place) -> set[str]:
    """Names of what is right in a group by the copy of its members' metadata, if it keeps one."""
    names: set[str] = set()
    for file, keys in (("zarr.json", ("consolidated_metadata", "metadata")), (".zmetadata", ("metadata",))):
        try:
            found: Any = json.loads((path / file).read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, dict):
            names |= {name.partition("/")[0] for name in found}
    return names


def _missing(path: Place, array: Any, listing: dict[str, tuple[int, str]]) -> MissingObjects | None:
    size = array.shards or array.chunks
    counts = [-(-n // s) for n, s in zip(array.shape, size, strict=True)]
    keys = {array.metadata.encode_chunk_key(index): index for index in np.ndindex(*counts)}
    for key in keys:
        if key in listing and listing[key][0] == 0:
            raise InputError(f"{path}/{key}: the object is empty, so Zarr would read it as fill value; restore it")
    absent = [key for key in keys if key not in listing]
    absent = folder_at(path).absent(absent, known=array.attrs.get(WHOLE) == 1)
    if not absent:
        return None
    (height, width), (y, x) = size[-2:], keys[absent[0]][-2:]
    ny, nx = array.shape[-2:]
    region = Region(y * height, min((y + 1) * height, ny), x * width, min((x + 1) * width, nx))
    return MissingObjects(len(absent), len(keys), absent[0], region)
