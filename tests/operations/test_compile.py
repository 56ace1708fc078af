"""Recipes as lists of operations."""

from __future__ import annotations

import pytest

from tiledsky.operations.compile import compiled
from tiledsky.operations.output import Output
from tiledsky.operations.stages import compiled_run, whole_kinds
from tiledsky.recipe import Recipe, preset_names


@pytest.mark.parametrize("name", preset_names())
def test_equal_recipes_are_one(name: str) -> None:
    """A recipe that is read again finds the operations of the first, and they fit it."""
    first, again = (Recipe.load(name).expanded() for _ in range(2))
    compiled(first)
    run = compiled_run(again)
    output = run["output"]
    assert isinstance(output, Output)
    assert again.result.name in [mesh.step for mesh in output.meshes]


def test_every_read_is_made_by_an_operation_before_it() -> None:
    for name in preset_names():
        run, before = compiled_run(Recipe.load(name).expanded()), set[str]()
        for operation in run.stages:
            assert {read.node for read in run.stored_reads(operation)} <= before
            before.add(operation.name)


def test_kinds_of_whole_operations() -> None:
    of_meshes = {"distance-scale", "noise", "weight-numbers", "robust-scale", "normal-equations", "whole-fit", "mesh"}
    of_objects = {"accepted", "objects"}
    assert whole_kinds() == {"bins", "centers", "statistics", *of_meshes, *of_objects, "footprints", "diagnostics"}
