"""Statistics of the boxes of a mesh."""
