"""Cards of a FITS header: how the bytes of a header become cards, and what a card says.

Headers of real files break the standard in ways that do no harm to the pixels, and astropy raises at each of them. So
what is no card by the standard is made a comment or a text before anyone asks for it; a number that matters and is none
is refused by whoever needs it.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
import warnings
from collections.abc import Iterator
from copy import copy

from astropy.io.fits import Card, Header

from tiledsky.errors import InputError

# Header bytes outside printable ASCII are forbidden but common in comments; they become '?', control bytes a blank.
_PRINTABLE = bytes(32 if b < 32 else 63 if b > 126 else b for b in range(256))
_CARD = 80
#: A card whose value is a text that goes on in the next card, and a card that continues one.
_GOES_ON = re.compile(r"(?:.{8}=|HIERARCH [^=]*=|CONTINUE) *'(?:[^']|'')*&' *(?:/.*)?")
_CONTINUES = re.compile(r"CONTINUE  +'(?:[^']|'')*' *(?:/.*)?")

# warnings.catch_warnings changes the filters of the whole process; the lock keeps our own threads from undoing each
# other's change in the wrong order.
_FILTER_LOCK = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence astropy's warnings about a file; what matters in them is checked here and raised as InputError."""
    with _FILTER_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def parse_cards(raw: bytes) -> Header:
    """Return the header that stands in some bytes.

    A CONTINUE that continues nothing is a comment, as the standard has it (version 4.0, section 4.2.1.2).
    """
    text = raw.translate(_PRINTABLE).decode("ascii")
    if "CONTINUE" in text:
        text = "".join(_without_orphans(text[at : at + _CARD] for at in range(0, len(text), _CARD)))
    with quiet():
        return Header.fromstring(text)


def _without_orphans(cards: Iterator[str]) -> Iterator[str]:
    goes_on = False
    for card in cards:
        if card.startswith("CONTINUE") and not (goes_on and _CONTINUES.fullmatch(card)):
            card = "COMMENT ".ljust(8) + card[8:]
        goes_on = _GOES_ON.fullmatch(card) is not None
        yield card


def as_readable(card: Card) -> Card:
    """Return a card whose value can be asked for: the same, or one with the text that stands where its value should.

    ``BUNIT = counts`` and ``BUNIT = 'counts / no end`` both give "counts".
    """
    with quiet():
        try:
            _ = card.value, card.comment
            return card
        except Exception:  # VerifyError, ValueError...: it cannot be parsed as it stands
            pass
        try:
            fixed = copy(card)  # of the card itself its owner may still ask what was wrong
            fixed.verify("silentfix")
            return Card(fixed.keyword, str(fixed.value).strip().lstrip("'").strip(), fixed.comment)
        except Exception:  # as above: what is left is its text
            return Card("COMMENT", str(card.rawkeyword)[:72])


def label_value(header: Header, keyword: str) -> str:
    """Return a value that only names or describes something, as text; of a card that cannot be parsed what it shows."""
    if keyword not in header:
        return ""
    card = as_readable(header.cards[keyword])
    return "" if _is_undefined(card.value) else str(card.value).strip()


def integer(header: Header, keyword: str, label: str, *, default: int | None = None, minimum: int | None = None) -> int:
    """Return an integer header value, or raise InputError naming the keyword."""
    value = number(header, keyword, label, default=default)
    if not isinstance(value, int) or (minimum is not None and value < minimum):
        least = "" if minimum is None else f" of at least {minimum}"
        raise InputError(f"{label}: {keyword} = {value!r} is not an integer{least}; the header is damaged, repair it")
    return value


def number(header: Header, keyword: str, label: str, *, default: float | None = None) -> float:
    """Return a finite real header value (int kept as int), or raise InputError naming the keyword."""
    once(header, keyword, label)
    value = value_of(header, keyword, label)
    if value is None:
        value = default
    if value is None:
        raise InputError(f"{label}: the header has no {keyword}; it is damaged, repair it")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{label}: {keyword} = {value!r} is not a number; the header is damaged, repair it")
    return value


def once(header: Header, keyword: str, label: str) -> None:
    """Raise InputError if a keyword is there again with another value: readers differ in which of them they take."""
    try:
        if keyword not in header or (count := header.count(keyword)) == 1:
            return
        with quiet():
            values = {repr(header[keyword, i]) for i in range(count)}
    except Exception as exc:  # as in value_of
        raise InputError(f"{label}: the card {keyword} cannot be read; the header is damaged, repair it") from exc
    if len(values) > 1:
        raise InputError(
            f"{label}: {keyword} occurs more than once, as {' and '.join(sorted(values))}; the header is "
            "damaged, repair it"
        )


def text_value(header: Header, keyword: str, label: str) -> str:
    """Return a header value as a string without blanks at its ends; empty when absent."""
    value = value_of(header, keyword, label)
    return "" if value is None else str(value).strip()


def value_of(header: Header, keyword: str, label: str) -> object:
    """Return a header value; None where it is absent or undefined. InputError if the card cannot be parsed."""
    try:
        with quiet():
            value: object = header.get(keyword)
    except Exception as exc:  # astropy raises VerifyError, ValueError, AttributeError... for a card it cannot parse
        raise InputError(f"{label}: the card {keyword} cannot be read; the header is damaged, repair it") from exc
    return None if _is_undefined(value) else value


def _is_undefined(value: object) -> bool:
    return type(value).__name__ == "Undefined"
