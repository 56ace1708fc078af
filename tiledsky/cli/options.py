"""The application, and the options that several of its commands have."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, TypeVar, cast, get_type_hints

import typer

from tiledsky.io.options import InputOptions
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
_PLANE: Any = {"metavar": "FILE[:HDU]"}
#: What can be said of an input (`tiledsky.io.options.InputOptions`), for every command that has one.
INPUTS: dict[str, Any] = {
    "hdu": HduOption,
    "nodata": Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|auto",
            help="Pixels that are this number have no data; auto: the number that fills patches at the border or 0.5%.",
        ),
    ],
    "weight": Annotated[str | None, typer.Option(**_PLANE, help="Weight: pixels not above 0 are invalid.")],
    "error": Annotated[str | None, typer.Option(**_PLANE, help="Standard deviation: pixels not above 0 are invalid.")],
    "variance": Annotated[str | None, typer.Option(**_PLANE, help="Its square root is the error; instead of --error.")],
    "dq": Annotated[
        str | None, typer.Option(**_PLANE, help="Data quality: pixels with the recipe's flags are invalid.")
    ],
    "coverage": Annotated[
        str | None, typer.Option(**_PLANE, help="Coverage: pixels that are 0 are invalid and get no sky.")
    ],
    "mask": Annotated[
        str | None,
        typer.Option(
            **_PLANE,
            help="Left out of statistics: non-zero pixels, a region file (.reg, .crtf), or the sources of RUN.zarr or "
            "of what merge-masks wrote.",
        ),
    ],
    "user_mask": Annotated[
        str | None,
        typer.Option(**_PLANE, help="A mask of your own, beside the one of a run: pixels or a region file."),
    ],
}
ChecksumOption = Annotated[
    bool, typer.Option("--checksum/--no-checksum", help="Refuse FITS files whose CHECKSUM or DATASUM is wrong.")
]

_Command = TypeVar("_Command", bound=Callable[..., None])


def with_inputs(*, checksum: bool = True) -> Callable[[_Command], _Command]:
    """Give a command, in place of its parameter ``inputs``, the options of `INPUTS` and (if asked for) --checksum."""
    kinds = {**INPUTS, **({"checksum": ChecksumOption} if checksum else {})}
    defaults: dict[str, Any] = {"checksum": True}

    def decorate(command: _Command) -> _Command:
        known = get_type_hints(command, include_extras=True)

        @wraps(command)
        def called(**options: Any) -> None:
            inputs = {name: options.pop(name) for name in kinds}
            command(**options, inputs=inputs)

        parameters: list[Parameter] = []
        for name, parameter in signature(command).parameters.items():
            if name != "inputs":
                parameters.append(parameter.replace(annotation=known[name], kind=Parameter.KEYWORD_ONLY))
                continue
            for option, kind in kinds.items():
                default = defaults.get(option)
                parameters.append(Parameter(option, Parameter.KEYWORD_ONLY, default=default, annotation=kind))
        hints = {parameter.name: parameter.annotation for parameter in parameters}
        made: Any = called
        made.__signature__, made.__annotations__ = Signature(parameters), hints
        del made.__wrapped__  # else the parameters of the command itself are looked at
        return cast(_Command, made)

    return decorate


def words_of(inputs: InputOptions) -> list[str]:
    """Words of a command line that give these options again, but for --checksum."""
    given = [(name, inputs.get(name)) for name in INPUTS]
    return [word for name, value in given if value is not None for word in (f"--{name.replace('_', '-')}", str(value))]


def names_of(text: str) -> list[str]:
    """Names that are separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def say(text: object, *, err: bool = False) -> None:
    """Print one line; names in it cannot make it two, or colour what follows."""
    typer.echo(plain(text), err=err)
