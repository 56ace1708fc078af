"""Fields of what measures write, as pages and checks rely on them when a store is opened; other keys may be there."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: A number, or null where there is none.
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e300, le=1e300)] | None
Numbers = Annotated[list[Number], Field(max_length=100_000)]
#: A pixel, or a part of one.
Coordinate = Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)]


class Fields(BaseModel):
    """Plain data: numbers, texts, lists, tables."""

    model_config = ConfigDict(strict=True, extra="allow")

    definition: str | None = None

    #: Names of lists that are columns of one table.
    table: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _of_one_length(self) -> Fields:
        """Lists of one table have one length."""
        lists = {len(v) for name in self.table if isinstance(v := getattr(self, name), list) and v}
        if len(lists) > 1:
            raise ValueError(f"{', '.join(self.table)} differ in length")
        return self


class Place(Fields):
    """A place of the image, in pixels (x, y), if it is known."""

    y: Coordinate | None = None
    x: Coordinate | None = None


class Position(Place):
    """A place of the image that is known, and what is there."""

    y: Coordinate
    x: Coordinate
    ra: Number = None
    dec: Number = None
    size: Number = None
    mean: Number = None
    area: Number = None
    significance: Number = None


class Bias(Fields):
    """A bias with its error, and that in units of the error."""

    bias: Number = None
    error: Number = None
    z: Number = None
