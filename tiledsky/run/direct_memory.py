"""Memory."""


def check_memory(*a, **k):
    pass
