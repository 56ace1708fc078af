"""Large objects: their light, what they cover, and the search for them."""
