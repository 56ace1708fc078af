"""Models made of plain data, with errors that name the step and the key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from tiledsky.errors import ParameterError
from tiledsky.plain import did_you_mean
from tiledsky.recipe.checks import Checks, Limit
from tiledsky.recipe.parameters import MAX_STEPS, MAXIMA, AnyInterpolator, MeshCeiling, Model, SigmaClip, Tier
from tiledsky.recipe.steps import AnyStep

AnyModel = TypeVar("AnyModel", bound=Model)


def validated(model: type[AnyModel], data: dict[str, Any], *, source: str) -> AnyModel:
    """Make a model of a dictionary; a ParameterError names every key that is wrong."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # a tuple with a bad item is also called too short: that follows from the first message
        errors = [e for e in error.errors() if e["type"] != "too_short"] or error.errors()
        raise ParameterError(f"{source}: {'; '.join(_explain(e, model, data) for e in errors)}") from None


#: Models that a key ``kind`` chooses, by its value: it is part of the place of an error for pydantic, not for a reader.
_CHOSEN: dict[str, type[Model]] = {
    model.model_fields["kind"].default: model for model in (*get_args(AnyStep), *get_args(AnyInterpolator))
}
_KINDS: dict[str, type[Model]] = {
    **_CHOSEN,
    "tiers": Tier,
    "clip": SigmaClip,
    "skewed_clip": SigmaClip,
    "ceiling": MeshCeiling,
    "checks": Checks,
    **dict.fromkeys(Checks.names(), Limit),
}


def _step_of(data: Any, parts: Sequence[Any]) -> str | None:
    """Return how a message calls the step that the first parts of an error's place lead to, if it has a name."""
    if len(parts) < 2 or parts[0] != "steps":
        return None
    try:
        step = data["steps"][parts[1]]
        name = step["name"] if "name" in step else _CHOSEN[step["kind"]].model_fields["name"].default
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    return f"step {name[:40]!r}" if isinstance(name, str) else None


def _explain(error: Any, model: type[Model], data: Any) -> str:
    """One line for one pydantic error in ``model``: where in ``data``, what, and which keys there are."""
    where, step = "", _step_of(data, error["loc"])
    for part in error["loc"][:-1] if error["type"] in ("extra_forbidden", "missing") else error["loc"]:
        if isinstance(part, int):
            where = step if where == "steps" and step is not None else f"{where}[{part}]"
        elif part not in _CHOSEN:
            where += f".{part}" if where else part
        model = _KINDS.get(part, model) if isinstance(part, str) else model
    place = f"{where}: " if where else ""
    key = error["loc"][-1] if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        known = list(model.model_fields)
        return f"{place}unknown key {key!r}; known are {', '.join(known)}{did_you_mean(key, known)}"
    if error["type"] == "missing":
        return f"{place}key {key!r} is missing"
    many = error["type"] == "too_long" and key == "steps"
    if (many or error["type"] == "less_than_equal") and (most := error["ctx"].get("le", MAX_STEPS)) in MAXIMA:
        what = f"{len(error['input'])} steps" if many else str(error["input"])
        return f"{place}{what[:40]} is beyond what memory and time are made for; use {most:g} or less"
    value = "" if isinstance(error.get("input"), dict | tuple | list | Model) else f" (got {error.get('input')!r})"
    return f"{place}{error['msg'].removeprefix('Value error, ')}{value}"
