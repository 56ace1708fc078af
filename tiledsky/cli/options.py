"""The application, and the options that several of its commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from tiledsky.plain import plain

#: Headings of the list of commands; those without one come first.
LOOK, FILES, BATCH = "How good it is", "Files", "Queues and clusters"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Estimate and subtract the sky background of astronomical mosaics of any size.",
)

HduOption = Annotated[str | None, typer.Option(help="HDU of the science image (name or number), or a Zarr array.")]
WeightOption = Annotated[str | None, typer.Option(metavar="FILE[:HDU]", help="Weight: pixels not above 0 are invalid.")]
ErrorOption = Annotated[
    str | None, typer.Option(metavar="FILE[:HDU]", help="Standard deviation: pixels not above 0 are invalid.")
]
DqOption = Annotated[
    str | None, typer.Option(metavar="FILE[:HDU]", help="Data quality: pixels with the recipe's flags are invalid.")
]
CoverageOption = Annotated[
    str | None, typer.Option(metavar="FILE[:HDU]", help="Coverage: pixels that are 0 are invalid and get no sky.")
]
MaskOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE[:HDU]",
        help="Left out of statistics: non-zero pixels, a region file (.reg, .crtf), or the sources of RUN.zarr or of "
        "what merge-masks wrote.",
    ),
]
ChecksumOption = Annotated[
    bool, typer.Option("--checksum/--no-checksum", help="Refuse FITS files whose CHECKSUM or DATASUM is wrong.")
]
UserMaskOption = Annotated[
    str | None,
    typer.Option(metavar="FILE[:HDU]", help="A mask of your own, beside the one of a run: pixels or a region file."),
]


def names_of(text: str) -> list[str]:
    """Names that are separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def say(text: object, *, err: bool = False) -> None:
    """Print one line; names in it cannot make it two, or colour what follows."""
    typer.echo(plain(text), err=err)
