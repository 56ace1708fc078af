"""What differs between the run that a store holds and the one that was asked for, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tiledsky.engine.plan import Plan
from tiledsky.io.plane_reader import SourcePlane

#: Differences that are spelled out; the others are counted.
_SHOWN = 3


def _words(what: str, differences: list[str]) -> str:
    shown = differences[:_SHOWN] + [f"{len(differences) - _SHOWN} more"] * (len(differences) > _SHOWN)
    return f"{what} ({', '.join(shown)})" if shown else what


def recipe_change(before: Any, now: Any) -> str:
    """Describe the change of a recipe, both as plain data; ``before`` None: not known."""
    return _words("recipe", [] if before is None else list(_differences(before, now, "")))


def _differences(before: Any, now: Any, path: str) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*before, *now)):
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif path == "steps":
        yield from _steps(before or (), now or ())
    elif _is_list(before) and _is_list(now) and (any(isinstance(v, Mapping) for v in (*before, *now))):
        for k, (one, other) in enumerate(zip(before, now, strict=False)):
            yield from _differences(one, other, f"{path}[{k}]")
        if len(before) != len(now):
            yield f"{len(before)} -> {len(now)} {path.rpartition('.')[2]}"
    elif before != now:
        yield f"{path} {_value(before)} -> {_value(now)}"


def _steps(before: Sequence[Any], now: Sequence[Any]) -> Iterator[str]:
    """Differences of the steps of two recipes, by name: of a step that is gone, what follows from it comes after."""
    was, is_now = ({step["name"]: step for step in steps} for steps in (before, now))
    yield from (f"without step {step['kind']} {name!r}" for name, step in was.items() if name not in is_now)
    yield from (f"with step {step['kind']} {name!r}" for name, step in is_now.items() if name not in was)
    both = [name for name in was if name in is_now]
    if both != [name for name in is_now if name in was]:
        yield "another order of the steps"
    for name in both:
        yield from _differences(was[name], is_now[name], f"step {name!r}")


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _value(value: Any) -> str:
    text = "none" if value is None else str(list(value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def plan_change(before: Plan | None, now: Plan) -> str:
    """Describe the change of a plan."""
    if before is None:
        return "plan"
    sizes = {
        "tile size": (str(before.tile_size), str(now.tile_size)),
        "image": (_size(before), _size(now)),
        "pixels": (before.dtype, now.dtype),
    }
    found = [f"{name} {one} -> {other}" for name, (one, other) in sizes.items() if one != other]
    return _words("plan", found or ["tiles of the stages"])


def _size(plan: Plan) -> str:
    return f"{plan.shape[0]} x {plan.shape[1]} px"


def input_change(
    before: Mapping[str, str],
    now: Mapping[str, str],
    planes_before: Mapping[str, SourcePlane],
    planes: Mapping[str, SourcePlane],
) -> str:
    """Describe the change of an input: identities by plane (``dq_bits``, ``nodata``), and planes as far as known."""
    found = []
    for name in dict.fromkeys((*before, *now)):
        one, other = before.get(name), now.get(name)
        if one == other:
            continue
        if name == "dq_bits":
            found.append(f"dq flags {one or 'all'} -> {other or 'all'}")
        elif name == "nodata":
            found.append(f"nodata {one or 'none'} -> {other or 'none'}")
        elif one is None or other is None:
            found.append(f"{name}: {'not there before' if one is None else 'no longer given'}")
        else:
            found.append(f"{name}: {plane_change(planes_before.get(name), planes[name])}")
    return _words("input", found)


def plane_change(before: SourcePlane | None, now: SourcePlane) -> str:
    """Describe the change of one plane; ``before`` None: not known."""
    name = Path(now.path).name
    if before is None:
        return f"{name} changed"
    if before.path != now.path:
        return f"{before.path} -> {now.path}"
    if before.is_variance != now.is_variance:
        return f"{name}: {' -> '.join('variances' if p.is_variance else 'errors' for p in (before, now))}"
    if before.shape != now.shape or before.dtype != now.dtype:
        return f"shape or type of the pixels of {name} changed"
    return now.change(before)


def libraries_change(before: dict[str, str], now: dict[str, str]) -> str:
    """Return which packages have another version, old -> new, as "numpy (2.4.6 -> 2.5.0) and scipy (..)"."""
    names = [name for name in now if before.get(name) != now[name]]
    return " and ".join(f"{name} ({before.get(name, 'not known')} -> {now[name]})" for name in names)
