"""Bias of the background under masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tiledsky.diagnostics.curve import BIAS, Rows, floats
from tiledsky.diagnostics.fields import Bias, Fields, Number
from tiledsky.diagnostics.next_steps import DEEPER, WIDER
from tiledsky.diagnostics.patches import Floats, jackknife, number, ratio
from tiledsky.diagnostics.protocol import Check, CheckValue, ImageSums, Measure
from tiledsky.diagnostics.sky import SKY, offset
from tiledsky.diagnostics.text import measured_text
from tiledsky.kernels.residual.sky_sums import GROUP, OUTSIDE

#: Groups of masked pixels, in the order of their sums.
GROUPS = ("all", "bright", "faint", "tier 1", "tier 2", "tier 3", "tier 4", "tier 5", "tier 6", "user")

DEFINITION = (
    "mean over masked pixels of the background minus the sky that the unmasked pixels around predict there (quadratic "
    "regression, Gaussian of sigma 20 px, pixels at least 4 px from masks), relative to the same over these "
    "unmasked pixels; bright: more than 3 sigma above the background"
)
NOTEBOOK = "mean background under masks minus mean outside; no test of a bias: the sky itself differs between the two"


class Notebook(Fields):
    """Mean under the mask less the mean outside."""

    difference: Number = None


class Group(Bias):
    """Bias of a group of pixels."""

    name: str
    notebook: Notebook | None = None


class MaskedBias(Fields):
    """Bias by groups."""

    groups: list[Group] = []


def _group(start: int) -> Callable[[Floats], Floats]:
    """Bias of a group, and the notebook's difference, of sums of a patch."""

    def of(sums: Floats) -> Floats:
        n, b, known, difference = (sums[..., start + k] for k in range(4))
        bias = ratio(difference, known) - offset(sums)
        return np.stack([bias, ratio(b, n) - ratio(sums[..., 1], sums[..., 0])], axis=-1)

    return of


def finalize(image: ImageSums) -> dict[str, Any]:
    """Return the measure."""
    table = image.sums(SKY).table()
    groups = []
    for k, name in enumerate(GROUPS):
        start = OUTSIDE + GROUP * k
        n, _, known, _ = table[:, start : start + GROUP].sum(axis=0)
        if not n:
            continue
        found = jackknife(table, _group(start), holds=start + 2)
        groups.append(
            {
                "name": name,
                "n_pixels": int(n),
                "n_predicted": int(known),
                "n_patches": found.n,
                "bias": number(found.value[0]),
                "error": number(found.error[0]),
                "z": number(found.z[0], 4),
                "notebook": {
                    "definition": NOTEBOOK,
                    "difference": number(found.value[1]),
                    "error": number(found.error[1]),
                    "z": number(found.z[1], 4),
                },
            }
        )
    return {"unit": "image", "groups": groups}


def group_bias(bias: Bias | None, noise: float) -> CheckValue:
    """Bias in units of the noise, with the error that makes value / error the normal deviate."""
    if bias is None or bias.bias is None or bias.z is None or not noise:
        return None
    error = abs(bias.bias / bias.z) if bias.z else bias.error
    return None if error is None else (bias.bias / noise, error / noise)


def _bias_of(name: str) -> Callable[[MaskedBias, float], CheckValue]:
    def value(found: MaskedBias, noise: float) -> CheckValue:
        return group_bias(next((g for g in found.groups if g.name == name), None), noise)

    return value


_TITLE, _LABEL = "Bias under the mask", "background − what the sky around predicts"


def _figure(found: MaskedBias) -> Rows | None:
    groups = [g for g in found.groups if g.bias is not None]
    if not groups:
        return None
    first = groups[0]
    said = f"{first.name}: {measured_text(first.bias, first.error)}, {measured_text(first.z)} sigma"
    caption = f"Under masked pixels the background should be what the unmasked sky around them predicts. {said}."
    other = first.notebook and first.notebook.difference
    if other is not None:
        mean = measured_text(other)
        caption += f" (Mean background under the mask less the mean outside is {mean}: no bias, the sky differs.)"
    return Rows(
        name="masked_bias",
        section=BIAS,
        title=_TITLE,
        x_label=_LABEL,
        caption=caption,
        alt=f"Bias of the background under masked pixels. {said}.",
        rank=2,
        labels=tuple(g.name for g in groups),
        values=floats([g.bias for g in groups]),
        errors=floats([g.error for g in groups]),
    )


def _comparison(runs: Sequence[tuple[str, MaskedBias]]) -> Rows | None:
    firsts = [found.groups[0] if found.groups else Group(name="") for _, found in runs]
    labels = tuple(label for label, _ in runs)
    drawn = "; ".join(
        f"{label} {measured_text(group.bias, group.error)}"
        for label, group in zip(labels, firsts, strict=True)
        if group.bias is not None
    )
    if not drawn:
        return None
    return Rows(
        name="bias",
        section=BIAS,
        title=_TITLE,
        x_label=_LABEL,
        caption=f"{drawn}.",
        alt=f"{_TITLE}: {drawn}.",
        labels=labels,
        values=floats([group.bias for group in firsts]),
        errors=floats([group.error for group in firsts]),
        apart=True,
    )


MEASURE = Measure(
    name="masked_bias",
    definition=DEFINITION,
    fields=MaskedBias,
    finalize=finalize,
    parts=(SKY,),
    checks=(
        Check("masked_bias", "sigma", _bias_of("all"), next_step=f"{WIDER}, or {DEEPER}"),
        Check("bright_bias", "sigma", _bias_of("bright"), next_step=f"use a larger box_size, or {DEEPER}"),
    ),
    figures=(_figure,),
    comparison=_comparison,
)
