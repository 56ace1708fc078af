"""The command that copies a run to a bucket."""

from __future__ import annotations

from typing import Annotated

import typer

from tiledsky.cli.console import reporting
from tiledsky.cli.options import FILES, RunArgument, app, loading, say


@app.command("publish", rich_help_panel=FILES)
def publish(
    source: RunArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="s3://, gs:// or az://")],
) -> None:
    """Copy a finished run to a bucket; the file that marks it as finished goes last."""
    with loading():
        from tiledsky.engine.result import open_run
        from tiledsky.io.store import RUN_FOLDER, SUCCESS
        from tiledsky.workflows.publish import upload

    open_run(source)
    with reporting(goes_on=True) as report:
        size = upload(
            source,
            url,
            last=f"{RUN_FOLDER}/{SUCCESS}",
            told=lambda done, total: report.show("publish", done, total, f"files {done}/{total}"),
        )
    say(f"{url}: {size / 1e6:.1f} MB")
