"""What `advise` tries unless told otherwise, without what it needs to do so."""

#: Recipes: one mesh, the notebook's chain, the most accurate one, that of CEERS.
RECIPES = ("sextractor", "complex-sky", "deep-sky", "ceers-nircam")
#: Boxes of the last background step.
BOXES = (6, 10, 15, 24, 32, 50)
#: Smallest sample in pixels (16 patches of 64 px: half of them can be measured).
SMALLEST = 256
