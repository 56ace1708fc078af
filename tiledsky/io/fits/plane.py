"""The header of a 2-D image: cards that can be read, and world coordinates of its two axes alone.

Length-1 axes are dropped from an image (FREQ and STOKES of radio maps, the wavelength of a slit), and with them must go
what the header says of them: tools for images refuse world coordinates of more axes than the image has, and tables of
coordinates (-TAB) stay in the file that was read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from astropy.io.fits import Card, Header
from numpy.typing import NDArray

from tiledsky.io.fits.cards import as_readable, quiet
from tiledsky.io.fits.header import WCS_CARD, keyword_of

_OF_AXIS = re.compile(
    r"(?:NAXIS|CTYPE|CRPIX|CRVAL|CDELT|CUNIT|CROTA|CNAME|CRDER|CSYER|CZPHS|CPERI)(?P<axis>\d+)[A-Z]?"
    r"|(?:PV|PS)(?P<world>\d+)_\d+[A-Z]?"
    r"|(?:CD|PC)(?P<row>\d+)_(?P<column>\d+)[A-Z]?|PC(?P<old_row>\d{3})(?P<old_column>\d{3})"
)
_TEXTS = re.compile(r"(?:CTYPE|CUNIT|CNAME|PS|CPDIS|CQDIS|D2IMDIS|WCSNAME|RADESYS|RADECSYS|SPECSYS|DP|DQ)")


def parse_header(text: str) -> Header:
    """Return the header kept as text by a source, a store or a run, as that of a 2-D image."""
    with quiet():
        return plane_header(Header.fromstring(text, sep="\n"))


def plane_header(header: Header) -> Header:
    """Return a header as that of the 2-D image of its first two axes.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Not changed.

    Returns
    -------
    Header
        Every card can be read: one without a value that can be parsed has the text that stands there. World coordinates
        are of two axes: pixel 1 of those that are dropped, in CRPIX where they turn the axes that are kept. A system
        (the first, or one of the letters A to Z) is left out as a whole if it cannot be had on two axes: it looks up
        these axes in a table (-TAB), needs an axis that is dropped, or has numbers that are none. HISTORY says what was
        left out.
    """
    cards = [as_readable(card) for card in header.cards]
    systems: dict[str, _System] = {}
    for before, card in zip(header.cards, cards, strict=True):
        name = keyword_of(card)
        found = WCS_CARD.fullmatch(name)
        if found:
            system = systems.setdefault(found["letter"] or "", _System(found["letter"] or ""))
            system.cards[name] = card
            if not _TEXTS.match(name) and (card is not before or not _is_number(card.value)):
                system.fault = f"{name} = {card.value} is no number"
    for system in systems.values():
        system.look()
    dropped = [line for system in systems.values() for line in system.said()]
    kept = [card for card in cards if not _is_dropped(keyword_of(card), systems)]
    with quiet():
        result = Header([_changed(card, systems) for card in kept])
        for line in dropped:
            result.add_history(f"left out on reading: {line}")
    return result


@dataclass
class _System:
    """World coordinates that belong together: cards without a letter, or those of one letter."""

    letter: str
    cards: dict[str, Card] = field(default_factory=dict)
    #: Why it cannot be had on two axes; "" if it can.
    fault: str = ""
    #: Numbers of axes that go.
    axes: list[int] = field(default_factory=list)
    #: What CRPIX1 and CRPIX2 become.
    centre: NDArray[np.float64] | None = None

    def look(self) -> None:
        """Find what goes, and whether the rest makes sense."""
        self.axes = sorted({axis for name in self.cards for axis in _axes_of(name) if axis > 2})
        for axis in (1, 2):
            if self._text(f"CTYPE{axis}").endswith("-TAB"):
                self.fault = f"CTYPE{axis} = {self._text(f'CTYPE{axis}')} looks coordinates up in a table of the input"
        if self.axes and not self.fault:
            self._turn()
        if self.axes and not self.fault:
            self._try()

    def said(self) -> Iterable[str]:
        """Lines on what is left out."""
        if self.fault:
            yield f"{self._name()}: {self.fault}"
            return
        for axis in self.axes:
            facts = [f"{key} = {self._text(key)}" for key in (f"CTYPE{axis}", f"CRVAL{axis}") if self._text(key)]
            yield f"axis {axis} of {self._name()}: {', '.join(facts)} {self._text(f'CUNIT{axis}')}".strip()

    def _name(self) -> str:
        return f"world coordinates {self.letter}".strip()

    def _text(self, key: str) -> str:
        card = self.cards.get(key + self.letter)
        return "" if card is None else str(card.value).strip()

    def _number(self, key: str, default: float) -> float:
        card = self.cards.get(key + self.letter)
        return float(card.value) if card is not None and isinstance(card.value, int | float) else default

    def _turn(self) -> None:
        """Put pixel 1 of the dropped axes into CRPIX of the others, where it moves them."""
        last = max(self.axes)
        kind = "CD" if any(re.match(r"CD\d+_", name) for name in self.cards) else "PC"
        matrix = np.array(
            [
                [self._number(f"{kind}{i}_{j}", float(i == j and kind == "PC")) for j in range(1, last + 1)]
                for i in (1, 2)
            ]
        )
        beside = matrix[:, 2:]
        if not beside.any():
            return
        steps = np.array([1.0 - self._number(f"CRPIX{j}", 0.0) for j in range(3, last + 1)])
        try:
            moved = np.linalg.solve(matrix[:, :2], beside @ steps)
        except np.linalg.LinAlgError:
            self.fault = "they do not change along the axes of the image alone"
            return
        self.centre = np.array([self._number(f"CRPIX{j}", 0.0) for j in (1, 2)]) - moved

    def _try(self) -> None:
        """Ask astropy whether the coordinates of two axes are some."""
        from astropy.wcs import WCS  # a quarter of a second, for the few images that have more axes

        systems = {self.letter: self}
        with quiet():
            cards = [_changed(card, systems) for name, card in self.cards.items() if not _is_dropped(name, systems)]
            two = Header([card for card in cards if not re.match(r"CPDIS|CQDIS|D2IM|DP|DQ", card.keyword)])
            try:
                WCS(two, naxis=2, key=self.letter or " ").wcs_pix2world([[1.0, 1.0]], 1)
            except Exception as error:  # astropy and wcslib have their own for everything
                reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                self.fault = f"no system of two axes ({reason[:100]})"


def _is_number(value: object) -> bool:
    """Whether a value is a number, in quotes perhaps, or not there at all."""
    if not isinstance(value, str | float):
        return True
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _axes_of(name: str) -> tuple[int, ...]:
    """Numbers of the axes that a keyword is of."""
    found = _OF_AXIS.fullmatch(name)
    return tuple(int(number) for number in found.groups() if number) if found else ()


def _is_dropped(name: str, systems: dict[str, _System]) -> bool:
    if any(axis > 2 for axis in _axes_of(name)):
        return True
    found = WCS_CARD.fullmatch(name)
    return found is not None and bool(systems[found["letter"] or ""].fault)


def _changed(card: Card, systems: dict[str, _System]) -> Card:
    """Return a card as it is for two axes."""
    name = keyword_of(card)
    found = WCS_CARD.fullmatch(name)
    if name == "NAXIS" and isinstance(card.value, int) and card.value > 2:
        return Card(name, 2, card.comment)
    if not found:
        return card
    system = systems[found["letter"] or ""]
    if name.startswith("WCSAXES") and system.axes:
        return Card(name, 2, card.comment)
    if name.startswith("CRPIX") and system.centre is not None:
        return Card(name, float(system.centre[_axes_of(name)[0] - 1]), card.comment)
    return card
