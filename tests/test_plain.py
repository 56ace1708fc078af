"""Text that may be shown: no secrets, nothing that a terminal obeys, names as they are in figures."""

from __future__ import annotations

import io
import pickle
import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from tiledsky.errors import InputError, RunError
from tiledsky.plain import figure_label, plain, spelled, without_secrets

SECRET = "SeCrEt123"
#: Text around an address that holds the secret.
TEXTS = [
    f"s3://AKID:{SECRET}@sky/x.zarr: no such array",
    f"GET https://h/x.fits?X-Amz-Signature={SECRET}&b=1 failed",
    f"https://h/x.fits#{SECRET}",
    f"/home/me/s3:/AKID:{SECRET}@sky/x.zarr cannot be written",
    f"ftp://user:{SECRET}@h/x.fits does not exist",
    f"https://us er:{SECRET}@[bad/x.fits",
    f"s3://AKID:a/{SECRET}/b@sky/x",
    f"error at http://u:{SECRET}@127.0.0.1:9000/b, then at http://u:{SECRET}@127.0.0.1:9000/b",
]


@pytest.mark.parametrize("text", TEXTS)
def test_secrets_are_left_out(text: str) -> None:
    assert SECRET not in without_secrets(text)
    assert SECRET not in plain(text)
    for kind in (InputError, RunError):
        error = pickle.loads(pickle.dumps(kind(text)))
        assert type(error) is kind
        assert SECRET not in f"{error}{error!r}"


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/sky.zarr",
        "give one like s3://bucket/m.zarr (a@b)",
        "/data/a:b/#frag?x=1/im.fits",
        "x@y.fits",
        "10:20",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("x\u202ey", r"x\u202ey"),
        ("\udcff", r"\udcff"),
        ("ü ✓", "ü ✓"),
    ],
)
def test_what_a_terminal_obeys_is_spelled_out(name: str, shown: str) -> None:
    assert spelled(name) == shown
    plain(name).encode()


@pytest.mark.parametrize(
    "name", ["$x$", r"a$\frac{1$b", "_hidden", r"a\$b$", "$", "$$", "ü n", "<b>&", "100%", "a_b^c", "{x}", r"\alpha"]
)
def test_names_in_figures_are_no_formulas(name: str) -> None:
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], label=figure_label(name))
    axes.set_yticks([0], [figure_label(name)])
    axes.legend()
    file = io.BytesIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg")
    texts = [node.text for node in ElementTree.fromstring(file.getvalue()).iter() if node.text]
    assert [text.strip() for text in texts].count(name) == 2, texts


def test_a_long_name_leaves_room_for_the_figure() -> None:
    assert figure_label("x" * 500) == f"{'x' * 30}…{'x' * 30}"
    assert figure_label("a\nb") == r"a\nb"
