"""The application, and the options that several of its commands have."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, TypeVar, cast, get_type_hints

import typer

from tiledsky.io.address import located
from tiledsky.io.options import InputOptions
from tiledsky.plain import plain
from tiledsky.recipe import RECOMMENDED, WITH_FOOTPRINTS, Recipe

#: Headings of the list of commands; those without one come first.
LOOK, FILES, BATCH = "How good it is", "Files", "Queues and clusters"

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Estimate and subtract the sky background of astronomical mosaics of any size.",
)


@contextmanager
def loading() -> Iterator[None]:
    """Import here what a command needs, in its function: --help, and other commands, do not wait for it.

    What modules make stays: to look through it for garbage again and again is an eighth of a start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def placed(text: str) -> str:
    """Return a path or an address as messages spell it; an address that cannot be one is refused."""
    return str(located(text))


RunArgument = Annotated[str, typer.Argument(parser=placed, metavar="RUN.zarr")]
OutOption = Annotated[
    str, typer.Option(parser=placed, metavar="RUN.zarr", help="Run store; the same command resumes the run.")
]
HduOption = Annotated[str | None, typer.Option(help="HDU of the science image (name or number), or a Zarr array.")]
ChecksumOption = Annotated[
    bool, typer.Option("--checksum/--no-checksum", help="Refuse FITS files whose CHECKSUM or DATASUM is wrong.")
]
KeepOption = Annotated[
    str | None,
    typer.Option(
        metavar="PX|30arcsec",
        help="Largest half-light radius of objects that are kept out of the sky (default: any); 0: all light is sky.",
    ),
]
RecipeOption = Annotated[str, typer.Option(help="Preset or TOML file; see `tiledsky recipes`.")]
_PLANE = "FILE[:HDU]"
#: Ends of names that say of what kind an image is.
_ENDS = re.compile(r"(\.(fits|fit|fts|zarr))?(\.(gz|bz2|fz))?$", re.IGNORECASE)


def _options(
    *,
    hdu: HduOption = None,
    nodata: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|auto",
            help="Number that means no data; auto: the number that fills patches at the border, or 0.5% of the pixels.",
        ),
    ] = None,
    weight: Annotated[str | None, typer.Option(metavar=_PLANE, help="Weight: pixels not above 0 are invalid.")] = None,
    error: Annotated[
        str | None, typer.Option(metavar=_PLANE, help="Standard deviation: pixels not above 0 are invalid.")
    ] = None,
    variance: Annotated[
        str | None, typer.Option(metavar=_PLANE, help="Square of the error, instead of --error.")
    ] = None,
    dq: Annotated[
        str | None, typer.Option(metavar=_PLANE, help="Data quality: pixels with the recipe's flags are invalid.")
    ] = None,
    coverage: Annotated[
        str | None, typer.Option(metavar=_PLANE, help="Coverage: pixels that are 0 are invalid and get no sky.")
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar=_PLANE,
            help=(
                "Mask: non-zero pixels, a region file (.reg, .crtf), or the sources of RUN.zarr or of a store "
                "written by merge-masks."
            ),
        ),
    ] = None,
    user_mask: Annotated[
        str | None,
        typer.Option(metavar=_PLANE, help="Your own mask, in addition to --mask: non-zero pixels or a region file."),
    ] = None,
    footprints: Annotated[
        str | None,
        typer.Option(
            metavar=_PLANE, help="Exposures of each pixel, a bit for each (drizzle's CTX, CON): steps are taken out."
        ),
    ] = None,
    footprint_labels: Annotated[
        str | None, typer.Option(metavar=_PLANE, help="Number of the exposure or panel of each pixel, instead.")
    ] = None,
    checksum: ChecksumOption = True,
) -> InputOptions:
    """All that can be said of an input: the options of every command that has one, with their defaults and texts."""
    return InputOptions(
        hdu=hdu,
        nodata=nodata,
        weight=weight,
        error=error,
        variance=variance,
        dq=dq,
        coverage=coverage,
        mask=mask,
        user_mask=user_mask,
        footprints=footprints,
        footprint_labels=footprint_labels,
        checksum=checksum,
    )


def _parameters(function: Callable[..., object]) -> dict[str, Parameter]:
    """Parameters of a function, by keyword alone, with what their annotations stand for."""
    hints = get_type_hints(function, include_extras=True)
    found = signature(function).parameters.values()
    return {p.name: p.replace(annotation=hints[p.name], kind=Parameter.KEYWORD_ONLY) for p in found}


_INPUT = _parameters(_options)
#: Whether a run puts profiles into windows of the image.
InjectionOption = Annotated[
    bool, typer.Option("--injection/--no-injection", help="Measure what the recipe takes from objects.")
]


def injecting(recipe: Recipe, injection: bool) -> Recipe:
    """Return a recipe, without its injection unless that is wanted."""
    return recipe if injection else recipe.model_copy(update={"injection": False})


_Command = TypeVar("_Command", bound=Callable[..., None])


def with_inputs(*, checksum: bool = True) -> Callable[[_Command], _Command]:
    """Give a command the options of an input, in place of its parameter ``inputs``, which gets what they say.

    ``checksum``: whether there is the option --checksum too; else nothing is compared.
    """
    given = {name: option for name, option in _INPUT.items() if checksum or name != "checksum"}

    def decorate(command: _Command) -> _Command:
        @wraps(command)
        def called(**options: object) -> None:
            said: Any = {name: options.pop(name) for name in given}
            inputs = _options(**said)
            command(**options, inputs=inputs if checksum else InputOptions(**{**inputs, "checksum": False}))

        parameters: list[Parameter] = []
        for name, parameter in _parameters(command).items():
            parameters += given.values() if name == "inputs" else [parameter]
        made: Any = called
        made.__signature__ = Signature(parameters)
        made.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del made.__wrapped__  # else the parameters of the command itself are looked at
        return cast(_Command, made)

    return decorate


def name_beside(source: str, end: str) -> str:
    """Return the name of an output in this folder after that of an input: "mosaic.sky" and ``end`` for mosaic.fits."""
    from tiledsky.io.fits.image import split_hdu  # takes astropy, which help needs not

    name = re.split(r"[/\\]", split_hdu(source)[0].rstrip("/\\"))[-1]
    return f"{_ENDS.sub('', name) or 'image'}.sky{end}"


def kept(recipe: str, keep: str | None, inputs: InputOptions) -> Recipe:
    """Return a preset or the recipe of a file, with what --keep says; footprints choose a preset that uses them."""
    footprints = inputs.get("footprints") or inputs.get("footprint_labels")
    if footprints and recipe == RECOMMENDED:
        recipe = WITH_FOOTPRINTS
        say(f"footprints are given: {WITH_FOOTPRINTS} in place of {RECOMMENDED}", err=True)
    loaded = Recipe.load(recipe)
    return loaded if keep is None else loaded.keeping(size_kept(keep))


def size_kept(keep: str) -> float | str:
    """Return what --keep says: pixels, or a size with its unit."""
    try:
        return float(keep)
    except ValueError:
        return keep


def words_of(inputs: InputOptions) -> list[str]:
    """Words of a command line that give these options again, but for --checksum."""
    given = [(name, inputs.get(name)) for name in _INPUT if name != "checksum"]
    return [word for name, value in given if value is not None for word in (f"--{name.replace('_', '-')}", str(value))]


def names_of(text: str) -> list[str]:
    """Names that are separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def say(text: object, *, err: bool = False) -> None:
    """Print one line; names in it cannot make it two, or colour what follows."""
    typer.echo(plain(text), err=err)
