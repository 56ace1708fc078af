"""What `advise` tries unless told otherwise, without what it needs to do so."""

#: Recipes that are always tried: the most accurate one, the notebook's, for light without a core, and the plainest.
ALWAYS = ("deep-sky", "complex-sky", "extended-light", "constant", "plane")
#: Beside these: one mesh, that of CEERS.
RECIPES = ("sextractor", "ceers-nircam")
#: Boxes of the last background step.
BOXES = (6, 10, 15, 24, 32, 50)
#: Smallest sample in pixels (16 patches of 64 px: half of them can be measured), the usual one, the largest that is
#: taken unasked.
SMALLEST, SAMPLE, LARGEST = 256, 1024, 2048
