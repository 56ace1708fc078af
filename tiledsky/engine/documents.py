"""The documents of a run store, each read by one function that believes nothing of what is in it.

A document that was edited, damaged or written by somebody else is one line of error that names its file. What can be
derived is compared with what it follows from: the plan with that of recipe, shape and tile size, the identity of the
run with the digests of recipe, plan and input.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from tiledsky.diagnostics.document import Diagnostics
from tiledsky.engine.plan import Plan, identity, make_plan, run_id
from tiledsky.errors import ParameterError, RunError, TiledSkyError
from tiledsky.geometry import Pair
from tiledsky.io.fits.image import FitsRef
from tiledsky.io.folders import Folder
from tiledsky.io.plane_reader import KINDS, ROLES, SourcePlane
from tiledsky.io.regions import RegionRef
from tiledsky.io.source import plane_from_json
from tiledsky.io.store import RUN_FOLDER, is_sealed
from tiledsky.kernels.footprints.terms import from_rows as footprint_rows
from tiledsky.kernels.objects.catalogue import KNOTS, from_rows
from tiledsky.nodata import number_text
from tiledsky.recipe import Recipe

#: Most pixels of an image, and tasks of a run: more is damage.
PIXELS, TASKS = 1 << 40, 10_000_000
_DTYPE = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)")


class _Document(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Identity(_Document):
    identity: dict[str, str]
    run_id: str
    code: str
    libraries: dict[str, str] = {}
    input: dict[str, str]
    dtypes: dict[str, str]
    files: dict[str, int]


class _Memory(_Document):
    projected: int | None = None
    measured: int | None = None


class _Provenance(_Document):
    run_id: str
    recipe: str = ""
    input: dict[str, str | None]
    nodata: float | None = None
    versions: dict[str, str]
    tasks: int = 0
    cpu_seconds: float = 0.0
    stage_cpu_seconds: dict[str, float] = {}
    wall_seconds_last: float = 0.0
    peak_worker_memory: int = 0
    memory: dict[str, _Memory] = {}


class _Tier(_Document):
    threshold: float | None = None
    fill: float | None = None
    skewness: float | None = None


class _MeshFacts(_Document):
    range: dict[str, tuple[float, float]]


class _Object(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    y: float
    x: float
    axis_ratio: Annotated[float, Field(gt=0, le=1)]
    angle: float
    extent: Annotated[float, Field(ge=0)]
    slope: float
    flux: float
    half_light_radius: float
    n_knots: Annotated[int, Field(ge=1, le=KNOTS)]
    radius: list[Annotated[float, Field(gt=0)]]
    light: list[Annotated[float, Field(gt=0)]]
    scores: Annotated[list[float], Field(min_length=4, max_length=4)]

    @model_validator(mode="after")
    def _knots(self) -> _Object:
        if not len(self.radius) == len(self.light) == self.n_knots:
            raise ValueError("its profile has not as many knots as it says")
        return self


class _Footprint(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    number: Annotated[int, Field(ge=1)]
    term: float
    error: float | None
    pixels: Annotated[int, Field(ge=0)]
    shared: Annotated[int, Field(ge=0)]
    overlaps: Annotated[int, Field(ge=0)]
    group: Annotated[int, Field(ge=1)]


class _Plane(_Document):
    fits: FitsRef | None
    array: str | None
    regions: RegionRef | None = None
    shape: Pair
    dtype: str
    identity: str
    url: str = ""
    nodata: float | None = None
    is_variance: bool = False


_TIERS, _PLANES = TypeAdapter(list[_Tier]), TypeAdapter(dict[str, _Plane])
_OBJECTS, _FOOTPRINTS = TypeAdapter(list[_Object]), TypeAdapter(list[_Footprint])


def content(root: Folder, name: str) -> Any:
    """Return a JSON document of the run folder as plain data.

    Raises
    ------
    RunError
        Missing, no file, or no JSON.
    """
    try:
        return json.loads(root.read(f"{RUN_FOLDER}/{name}"))
    except FileNotFoundError:
        raise _broken(root, name, "is missing") from None
    except OSError as error:
        raise _broken(root, name, f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise _broken(root, name, "is damaged") from None


def sealed_content(root: Folder, name: str) -> dict[str, Any] | None:
    """Return a document that carries a checksum; None if it is missing or damaged."""
    try:
        found = content(root, name)
    except RunError:
        return None
    return found if is_sealed(found) else None


def read_identity(root: Folder) -> dict[str, Any] | None:
    """Return what says whose run a store is; None if it is missing, damaged, or contradicts itself."""
    found = sealed_content(root, "identity.json")
    if found is None or not _is(_Identity, found) or found["run_id"] != run_id(found["identity"]):
        return None
    if not all(_DTYPE.fullmatch(dtype) for dtype in found["dtypes"].values()) or not found["dtypes"].keys() <= set(
        ROLES
    ):
        return None
    return found


def read_recipe(root: Folder) -> Recipe:
    """Return the recipe of a run."""
    data = content(root, "recipe.json")
    try:
        return Recipe.from_dict(data)
    except (ParameterError, RecursionError) as error:
        raise _broken(root, "recipe.json", f"is no recipe of this version ({_line(error)})") from None


def read_plan(root: Folder, recipe: Recipe) -> Plan:
    """Return the plan of a run, if it is what its recipe, shape and tile size make."""
    try:
        return checked_plan(content(root, "plan.json"), recipe)
    except ValueError as error:
        raise _broken(root, "plan.json", f"is no plan of its recipe by this version ({error})") from None


def checked_plan(data: Any, recipe: Recipe) -> Plan:
    """Return the plan that plain data describe; ValueError if it is not what follows from the recipe."""
    try:
        plan = Plan.from_json(data)
        sizes = (*plan.shape, plan.tile_size)
        if len(plan.shape) != 2 or any(type(n) is not int or n < 1 for n in sizes):
            raise ValueError("shape and tile size are not numbers of pixels")
        if plan.dtype not in ("float32", "float64") or plan.shape[0] * plan.shape[1] > PIXELS:
            raise ValueError(f"no image has {plan.shape} pixels of {plan.dtype}")
        ingest = any(stage.kind == "ingest" for stage in plan.stages)
        made = (make_plan(recipe, plan.shape, plan.dtype, tile_size=t, ingest=ingest) for t in (plan.tile_size, None))
        if plan not in made:
            raise ValueError("its stages do not match")
        if plan.n_tasks > TASKS:
            raise ValueError(f"more than {TASKS} tasks")
    except (TypeError, KeyError, AttributeError, TiledSkyError, RecursionError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from None
    return plan


def check_identity(root: Folder, known: Mapping[str, Any], recipe: Recipe, plan: Plan) -> None:
    """Refuse a recipe, plan or list of inputs that is not the one whose digest makes the run's identity."""
    digests = identity(recipe, plan, known["input"])
    for name, part in (("recipe.json", "recipe"), ("plan.json", "plan"), ("identity.json", "input")):
        if known["identity"].get(part) != digests[part]:
            raise _broken(root, name, "is not of this run")


def read_provenance(root: Folder, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of how a finished run was made."""
    found = sealed_content(root, "provenance.json")
    if found is None or not _is(_Provenance, found) or found["run_id"] != known["run_id"]:
        raise _broken(root, "provenance.json", "is missing or damaged")
    return found


def read_source(root: Folder, known: Mapping[str, Any] | None = None) -> dict[str, SourcePlane]:
    """Return the planes of the input of a run; with its identity, only if they are those that it names."""
    data = content(root, "source.json")
    try:
        _PLANES.validate_json(json.dumps(data), strict=True)
        planes = {name: plane_from_json(plane) for name, plane in data.items()}
        right = all(_DTYPE.fullmatch(p.dtype) and len(p.shape) == 2 and min(p.shape) > 0 for p in planes.values())
        named = [sum(bool(plane.get(kind)) for kind in KINDS) for plane in data.values()]
        if not right or named.count(1) != len(named) or "science" not in planes or not planes.keys() <= set(ROLES):
            raise ValueError("its planes are not planes of a run")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _broken(root, "source.json", f"is no list of planes ({_line(error)})") from None
    if known is not None:
        found = {name: (p.identity, p.dtype) for name, p in planes.items()}
        right = found == {name: (known["input"].get(name), dtype) for name, dtype in known["dtypes"].items()}
        nodata = planes["science"].nodata
        if not right or known["input"].get("nodata") != (None if nodata is None else number_text(nodata)):
            raise _broken(root, "source.json", "is not of this run")
    return planes


def read_tiers(root: Folder, step: str) -> list[dict[str, Any]]:
    """Return statistics and thresholds of the tiers of a step; of a ring step the one for the pixels left out."""
    name = f"thresholds/{step}.json"
    data: list[dict[str, Any]] = content(root, name)
    if not _is(_TIERS, data) or not data:
        raise _broken(root, name, "is no list of tiers")
    return data


def read_range(root: Folder, step: str, part: str) -> tuple[float, float]:
    """Return the range of the values of a map of a mesh."""
    name = f"meshes/{step}.json"
    data = content(root, name)
    if not _is(_MeshFacts, data) or part not in data["range"]:
        raise _broken(root, name, f"has no range of {part}")
    low, high = data["range"][part]
    return low, high


def read_objects(root: Folder, step: str) -> NDArray[np.void]:
    """Return the catalogue of the objects of a step, an array of `tiledsky.kernels.objects.catalogue.OBJECT`."""
    name = f"objects/{step}.json"
    rows: list[dict[str, Any]] = content(root, name)
    if not _is(_OBJECTS, rows):
        raise _broken(root, name, "is no catalogue of objects")
    try:
        return from_rows([_Object.model_validate(row).model_dump() for row in rows])
    except ValueError as error:
        raise _broken(root, name, f"is no catalogue of objects ({_line(error)})") from None


def read_footprints(root: Folder, step: str) -> NDArray[np.void]:
    """Return the constants of a step's footprints, an array of `tiledsky.kernels.footprints.terms.FOOTPRINT`."""
    name = f"footprints/{step}.json"
    rows: list[dict[str, Any]] = content(root, name)
    if not _is(_FOOTPRINTS, rows):
        raise _broken(root, name, "is no table of footprints")
    return footprint_rows(rows)


def read_diagnostics(root: Folder) -> dict[str, Any]:
    """Return the measures of a run and their verdict."""
    data: dict[str, Any] = content(root, "diagnostics.json")
    try:
        Diagnostics.model_validate_json(json.dumps(data), strict=True)
    except (ValidationError, RecursionError) as error:
        raise _broken(root, "diagnostics.json", f"holds no measures ({_line(error)})") from None
    return data


def files_differ(root: Folder, path: str, crc: int) -> str | None:
    """Say what is wrong with a small file of a store that should have a CRC-32; None if nothing is."""
    try:
        return None if zlib.crc32(root.read(path)) == crc else "damaged"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"unreadable ({error.strerror})"


def _is(model: type[BaseModel] | TypeAdapter[Any], data: Any) -> bool:
    text = json.dumps(data)  # as JSON, where a list is a tuple
    try:
        if isinstance(model, TypeAdapter):
            model.validate_json(text, strict=True)
        else:
            model.model_validate_json(text, strict=True)
    except (ValidationError, RecursionError):
        return False
    return True


def _line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:200]
    return " ".join(str(error).split())[:200] or type(error).__name__


def _broken(root: Folder, name: str, what: str) -> RunError:
    return RunError(
        f"{root / RUN_FOLDER / name} {what}, so {root} cannot be trusted; the command that made the run "
        "repairs what it can, and with --restart it starts over"
    )
