"""Recipes: ordered steps, checked by name, read from and written to TOML."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import Field, model_validator

from tiledsky.errors import InputError, ParameterError
from tiledsky.plain import did_you_mean
from tiledsky.recipe.checks import Checks
from tiledsky.recipe.footprints import FootprintsStep, check_order
from tiledsky.recipe.parameters import (
    MAX_BANDWIDTH,
    MAX_STEPS,
    PLANES,
    BackgroundStep,
    LocalPolynomialInterpolator,
    MaskStep,
    Model,
    Name,
    RingStep,
)
from tiledsky.recipe.reading import read
from tiledsky.recipe.steps import AnyMask, AnyStep, ObjectsStep, Step
from tiledsky.recipe.validation import validated

#: Kinds of steps that others can name as their mask.
_MASKS = tuple(model.model_fields["kind"].default for model in get_args(AnyMask))
#: Kinds of steps that have no sky that a mask step can subtract.
_NO_SKIES = (*_MASKS, FootprintsStep.model_fields["kind"].default)
#: Boxes of the widest fit where objects are masked: it bridges holes of their size.
_BRIDGE = 144
#: Largest fill value: what the float32 planes hold.
MAX_FILL = 3.4e38
#: The preset for whoever names none.
RECOMMENDED = "deep-sky"


class Recipe(Model):
    """Ordered steps from an image to its background. The last background step gives the result.

    Attributes
    ----------
    dq_flags : tuple of str or int, or "all"
        Flags of a DQ plane that make a pixel invalid: bit values, or names (see `tiledsky.recipe.dq`); "all": any bit.
    fill_value : float or "nan"
        What the background planes and the subtracted image have outside the coverage.
    uncovered : "coverage" or "invalid"
        Where that is: where the coverage plane, if there is one, is 0 or NaN; or at every invalid pixel.
    bandwidth_plane : bool
        Write the plane ``bandwidth`` too: that of the result's fit at each pixel, in pixels.
    objects_plane : bool
        Write the plane ``object_light`` too: the light of the models of large objects.
    injection : bool
        Measure what the recipe takes from objects, with profiles of known light in windows of the image.
    checks : Checks
        Limits of the verdict on the background that the recipe gives.
    """

    name: Name
    description: str = ""
    dq_flags: Annotated[tuple[int | str, ...] | Literal["all"], Field(union_mode="left_to_right")] = "all"
    fill_value: Annotated[float, Field(ge=-MAX_FILL, le=MAX_FILL)] | Literal["nan"] = 0.0
    uncovered: Literal["coverage", "invalid"] = "coverage"
    bandwidth_plane: bool = False
    objects_plane: bool = False
    injection: bool = True
    checks: Checks = Checks()
    steps: tuple[Step, ...] = Field(min_length=1, max_length=MAX_STEPS)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        seen: dict[str, str] = {}
        for step in self.steps:
            if step.name in seen or step.name in PLANES or step.name == "none":
                raise ValueError(f"step name {step.name!r} is taken; give every step a name of its own")
            if isinstance(step, MaskStep):
                earlier = [name for name, kind in seen.items() if kind not in _NO_SKIES]
                if step.minus is None and not earlier:
                    raise ValueError(
                        f"mask step {step.name!r} has no sky to subtract; put a ring or background before it"
                    )
                if step.minus is not None and step.minus not in earlier:
                    raise ValueError(f"mask step {step.name!r} subtracts {step.minus!r}; earlier steps are {earlier}")
            _check_names(step, seen)
            seen[step.name] = step.kind
        if "background" not in seen.values():
            raise ValueError("there is no background step, so there would be no result; add one at the end")
        if self.bandwidth_plane and not self.result.interpolator.has_bandwidths:
            raise ValueError(
                f"bandwidth_plane needs a fit, and background {self.result.name!r} interpolates its mesh by "
                f"{self.result.interpolator.kind!r}; leave it out, or use local-polynomial"
            )
        for step in self.steps:
            if isinstance(step, AnyMask):
                self._check_bits(step)
            if isinstance(step, MaskStep):
                self._check_noise_map(step)
        self._check_objects()
        check_order(self.steps)
        return self

    def _check_objects(self) -> None:
        """Check that there is one objects step at most, and that no name could be one of its parts."""
        found = [step.name for step in self.steps if isinstance(step, ObjectsStep)]
        if len(found) > 1:
            raise ValueError(f"objects steps {found}: the light of objects is taken off once; leave one of them")
        if self.objects_plane and not found:
            raise ValueError("objects_plane needs the models of an objects step, and there is none; leave it out")
        for step in self.steps:
            for other in self.steps:
                parts = isinstance(other, ObjectsStep | FootprintsStep)
                if parts and step.name.startswith(f"{other.name}-"):
                    raise ValueError(
                        f"step name {step.name!r} could be a part of {other.kind} step {other.name!r}, which makes "
                        "files of such names; change one of the two"
                    )

    def _check_bits(self, step: AnyMask) -> None:
        """Check that there are bits left for a mask, after those that it goes on from."""
        last = self.first_bit(step) + step.n_bits - 1
        if last > 6:
            what = "its last tier" if isinstance(step, MaskStep) else "its objects"
            raise ValueError(
                f"{step.kind} step {step.name!r} needs bit {last} for {what}, and sources have bits 1 to 6; use "
                "fewer tiers here or in the masks that it starts from"
            )

    def _check_noise_map(self, step: MaskStep) -> None:
        """Check that a mask step that needs a noise map has one."""
        local = any(t.noise == "local" for t in step.tiers)
        if (local or step.equalize == "rms") and self.noise_map(step) is None:
            what = "has a tier with local noise" if local else 'has equalize = "rms"'
            raise ValueError(
                f"mask step {step.name!r} {what} but subtracts a ring, which has no rms map; "
                "name an earlier background step with noise_map"
            )

    @property
    def objects(self) -> ObjectsStep | None:
        """The step that finds large objects, if there is one."""
        return next((s for s in self.steps if isinstance(s, ObjectsStep)), None)

    @property
    def result(self) -> BackgroundStep:
        """The step whose background is the result."""
        return next(s for s in reversed(self.steps) if isinstance(s, BackgroundStep))

    def step(self, name: str) -> AnyStep:
        """Return the step called ``name``."""
        for step in self.steps:
            if step.name == name:
                return step
        names = [s.name for s in self.steps]
        raise ParameterError(
            f"no step {name!r} in recipe {self.name}; it has {', '.join(names)}{did_you_mean(name, names)}"
        )

    def detection_sky(self, mask: MaskStep) -> RingStep | BackgroundStep:
        """Return the step whose sky the mask step subtracts before it looks for sources."""
        if mask.minus is not None:
            return self.step(mask.minus)  # type: ignore[return-value]
        before = self.steps[: self.steps.index(mask)]
        return next(s for s in reversed(before) if s.kind not in _NO_SKIES)  # type: ignore[return-value]

    def noise_map(self, mask: MaskStep) -> BackgroundStep | None:
        """Return the background step whose rms map is the local noise of a mask step; None for a ring's."""
        step = self.detection_sky(mask) if mask.noise_map is None else self.step(mask.noise_map)
        return step if isinstance(step, BackgroundStep) else None

    def noise_source(self, mask: MaskStep) -> BackgroundStep:
        """Return `noise_map` of a mask step that needs one, which was checked with the recipe."""
        source = self.noise_map(mask)
        assert source is not None
        return source

    def mask_for(self, step: AnyStep) -> AnyMask | None:
        """Return the mask or objects step whose sources a step leaves out, if any.

        A background, objects or footprints step uses the last one before it unless it names one; others only the one
        that they name.
        """
        if step.mask == "none":
            return None
        before = [s for s in self.steps[: self.steps.index(step)] if isinstance(s, AnyMask)]
        if step.mask is not None:
            return next(s for s in before if s.name == step.mask)
        return before[-1] if before and isinstance(step, BackgroundStep | ObjectsStep | FootprintsStep) else None

    def objects_for(self, step: AnyStep) -> ObjectsStep | None:
        """Return the objects step that the mask of a step is, or goes on from: the step works without their light."""
        before = self.mask_for(step)
        while before is not None and not isinstance(before, ObjectsStep):
            before = self.mask_for(before)
        return before

    def footprints_for(self, step: AnyStep) -> FootprintsStep | None:
        """Return the footprints step without whose constants a step works: the last one before it, if any."""
        before = [s for s in self.steps[: self.steps.index(step)] if isinstance(s, FootprintsStep)]
        return before[-1] if before and not isinstance(step, FootprintsStep) else None

    @property
    def footprints(self) -> FootprintsStep | None:
        """The footprints step whose constants the result has, if there is one."""
        return self.footprints_for(self.result)

    def first_bit(self, step: AnyMask) -> int:
        """Bit of the first tier of a mask step: tiers of the masks that it goes on from come before."""
        before = self.mask_for(step)
        return 1 if before is None else self.first_bit(before) + before.n_bits

    def expanded(self) -> Recipe:
        """Return what runs, with all that follows from other steps said.

        One mask step for each tier of the cumulative ones; no objects step that keeps nothing; fits as wide as the
        masks of objects need them.
        """
        return self._without_idle()._bridging()._one_by_one()

    def backgrounds_alone(self) -> list[Recipe]:
        """Return a recipe of one step, without masks, for each kind of background step of this one, in their order."""
        steps = {s.interpolator.kind: s for s in reversed(self.expanded().steps) if isinstance(s, BackgroundStep)}
        alone = {"mask": None, "ceiling": None}
        return [Recipe(name=s.name, steps=(s.model_copy(update=alone),)) for s in reversed(steps.values())]

    def keeping(self, keep: float | str | None) -> Recipe:
        """Return the recipe with ``keep`` of its objects step changed; see `ObjectsStep`.

        Raises
        ------
        ParameterError
            No objects step; a size that is none.
        """
        step = self.objects
        if step is None:
            raise ParameterError(
                f"keep = {keep}: recipe {self.name} has no objects step that could keep any; leave keep out, or use "
                "a recipe with one, as deep-sky"
            )
        kept = validated(ObjectsStep, {**step.model_dump(exclude_none=True), "keep": keep}, source=f"keep = {keep}")
        return self._with(kept)

    @property
    def needs_scale(self) -> bool:
        """Whether it gives a size in arcseconds."""
        return self.objects is not None and isinstance(self.objects.keep, str)

    def on_scale(self, arcsec: float) -> Recipe:
        """Return the recipe with ``keep`` in pixels, for an image with pixels of ``arcsec`` arcseconds."""
        return self if self.objects is None else self._with(self.objects.in_pixels(arcsec))

    def _with(self, changed: AnyStep) -> Recipe:
        """Return the recipe with the step of the same name replaced."""
        steps = tuple(changed if step.name == changed.name else step for step in self.steps)
        return self.model_copy(update={"steps": steps})

    def _bridging(self) -> Recipe:
        """Return the recipe with fits that are wide enough to bridge masked objects, where no width is given."""
        steps: list[AnyStep] = []
        for step in self.steps:
            if isinstance(step, BackgroundStep) and self.objects_for(step) is not None:
                law = step.interpolator
                if isinstance(law, LocalPolynomialInterpolator) and law.bandwidth == "auto" and not law.bandwidth_max:
                    widest = max(min(_BRIDGE * max(step.box_size), MAX_BANDWIDTH), law.bandwidth_min)
                    step = step.model_copy(update={"interpolator": law.model_copy(update={"bandwidth_max": widest})})
            steps.append(step)
        same = all(a is b for a, b in zip(steps, self.steps, strict=True))
        return self if same else self.model_copy(update={"steps": tuple(steps)})

    def _without_idle(self) -> Recipe:
        """Return the recipe without an objects step that keeps no object: its own mask stands in for it."""
        idle = self.objects
        if idle is None or idle.keep != 0:
            return self
        before = self.mask_for(idle)
        steps: list[AnyStep] = []
        for step in self.steps:
            if step is idle:
                continue
            if self.mask_for(step) is idle:
                others = [s for s in steps if isinstance(s, AnyMask)]
                by_default = isinstance(step, BackgroundStep) and (others[-1] if others else None) is before
                none = "none" if isinstance(step, BackgroundStep) else None
                name = None if by_default else none if before is None else before.name
                steps.append(step.model_copy(update={"mask": name}))
            else:
                steps.append(step)
        changed = self.model_copy(update={"steps": tuple(steps), "objects_plane": False})
        return self.model_validate(changed.model_dump())

    def _one_by_one(self) -> Recipe:
        steps: list[AnyStep] = []
        for step in self.steps:
            if not isinstance(step, MaskStep) or not step.cumulative or len(step.tiers) == 1:
                steps.append(step)
                continue
            minus, before = self.detection_sky(step).name, step.mask
            for index, tier in enumerate(step.tiers):
                name = step.name if index == len(step.tiers) - 1 else f"{step.name}-{index + 1}"
                change = {"name": name, "minus": minus, "mask": before, "tiers": (tier,), "cumulative": False}
                steps.append(step.model_copy(update=change))
                before = name
        if len(steps) == len(self.steps):
            return self
        return self.model_validate(self.model_copy(update={"steps": tuple(steps)}).model_dump())

    @property
    def result_mask(self) -> AnyMask | None:
        """The mask or objects step whose plane is the run's ``mask``: the one that the result uses."""
        return self.mask_for(self.result)

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str = "recipe") -> Recipe:
        """Validate a dictionary; errors name the key and say which keys there are."""
        return validated(cls, data, source=source)

    @classmethod
    def load(cls, name_or_path: str | Path | Recipe) -> Recipe:
        """Load a preset by name, or a TOML file by its path.

        Raises
        ------
        ParameterError
            No such preset or file, no valid TOML, unknown or wrong keys.
        """
        if isinstance(name_or_path, Recipe):
            return name_or_path
        return cls.from_dict(*read(name_or_path))

    def to_toml(self) -> str:
        """Write the recipe as TOML, every parameter spelled out."""
        data = self.model_dump(mode="json", exclude_none=True)
        for step, written in zip(self.steps, data["steps"], strict=True):
            if isinstance(step, BackgroundStep) and step.clip is None:
                written["clip"] = "none"  # left out it would be the default, and be taken for the same recipe
        return tomli_w.dumps(data)


def _check_names(step: AnyStep, seen: dict[str, str]) -> None:
    """Check that the steps that a step names stand before it and are of the right kind."""
    wanted = [(step.mask, _MASKS, "uses mask")] if step.mask != "none" else []
    if isinstance(step, MaskStep):
        wanted.append((step.noise_map, ("background",), "takes its noise from"))
    if isinstance(step, BackgroundStep) and step.ceiling is not None:
        wanted.append((step.ceiling.above, ("background",), "has its ceiling above"))
    for name, kinds, does in wanted:
        known = [n for n, k in seen.items() if k in kinds]
        if name is not None and name not in known:
            raise ValueError(f"{step.kind} {step.name!r} {does} {name!r}; earlier {kinds[0]} steps are {known}")


def check_noise(recipe: Recipe, planes: Container[str]) -> None:
    """Check that a recipe which evens the noise has a plane among ``planes`` (names) that says how it varies.

    Raises
    ------
    InputError
        It has none.
    """
    for step in recipe.steps:
        if isinstance(step, MaskStep) and step.equalize is True and "weight" not in planes and "error" not in planes:
            raise InputError(
                f"mask step {step.name!r} equalizes the noise and no plane gives it; give --weight or --error, or "
                'set equalize = "rms" or false'
            )


def checks_of(name_or_path: str | Path) -> Checks:
    """Return the limits of a recipe, or of a file that has its table ``[checks]`` and nothing else.

    Raises
    ------
    ParameterError
        As `Recipe.load`.
    """
    data, source = read(name_or_path)
    if set(data) == {"checks"}:
        return validated(_ChecksAlone, data, source=source).checks
    return Recipe.from_dict(data, source).checks


class _ChecksAlone(Model):
    """A file of limits."""

    checks: Checks
