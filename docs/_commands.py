"""The application whose commands Typer describes for the site: it looks for the name in a file."""

from tiledsky.cli import app

__all__ = ["app"]
