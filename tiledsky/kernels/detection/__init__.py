"""Search for sources, growth of masks, patches of one value."""
