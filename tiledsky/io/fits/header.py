"""Header cards: which describe the file rather than the sky, which are valid, and how two headers become one."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable

from astropy.io.fits import Card, Header

from tiledsky.io.fits.cards import as_readable, quiet

# Cards that describe how the bytes are stored, not what was observed; they are false for a file of another layout.
# DES_EXT is an extension name; DATAMIN and DATAMAX are of the pixels; the table keywords come with tile compression.
_STRUCTURE = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|BLOCKED|PCOUNT|GCOUNT|GROUPS|INHERIT|END"
    r"|EXTNAME|EXTVER|EXTLEVEL|DES_EXT|NEXTEND"
    r"|BSCALE|BZERO|BLANK|DATAMIN|DATAMAX|CHECKSUM|DATASUM"
    r"|TFIELDS|THEAP|T(TYPE|FORM|UNIT|NULL|SCAL|ZERO|DISP|DIM|BCOL)\d+"
    r"|Z(IMAGE|SIMPLE|TENSION|EXTEND|BLOCKED|BITPIX|NAXIS\d*|TILE\d+|NAME\d+|VAL\d+|PCOUNT|GCOUNT|CMPTYPE|MASKCMP)"
    r"|Z(QUANTIZ|DITHER0|BLANK|SCALE|ZERO|HECKSUM|DATASUM)|FZ(ALGOR|ALG2|QVALUE|QMETHD|DTHRSD|TILE|HSCALE)"
)
# World coordinates: taken from one header whole, because half of one system and half of another is a third. Several
# systems are told apart by a letter.
WCS_CARD = re.compile(
    r"(?:(?:WCSAXES|WCSNAME|(?:CTYPE|CRPIX|CRVAL|CDELT|CUNIT|CROTA|CNAME|CRDER|CSYER|CZPHS|CPERI)\d+"
    r"|(?:CD|PC|PV|PS)\d+_\d+|LONPOLE|LATPOLE|RADESYS|EQUINOX|SPECSYS|RESTFRQ|RESTWAV)(?P<letter>[A-Z]?)"
    r"|RADECSYS|EPOCH|PC\d{6}|(?:A|B|AP|BP)_(?:ORDER|DMAX|\d+_\d+)"
    r"|(?:CPDIS|CQDIS|CPERR|D2IMDIS|D2IMERR|DP|DQ)\d+.*|D2IMARR|AXISCORR)"
)
# Distortions kept as arrays in other extensions of the input, which a file of ours does not carry.
_LOOKUP = re.compile(r"(CPDIS|CQDIS|CPERR|D2IMDIS|D2IMERR|DP|DQ|D2IM)\d+(\..*)?|D2IMARR|D2IMEXT|AXISCORR|NPOLEXT")
_COMMENTARY = ("COMMENT", "HISTORY", "")
_BOILERPLATE = ("FITS (Flexible Image Transport System)", "and Astrophysics', volume 376")


def valid_card(card: Card) -> Card | None:
    """Return a copy of `card` that conforms to the standard, or None if it has no such form.

    A number written against the rules (``1.0e5``) is written again; text that astropy can only guess at is not.
    """
    try:
        with quiet():
            warnings.simplefilter("error")  # undone by quiet()
            copy = Card.fromstring(card.image)
            copy.verify("exception")
            str(copy)
            return copy
    except Exception:  # VerifyError, VerifyWarning, ValueError...: any of them means "not as it stands"
        pass
    try:
        with quiet():
            keyword, value, comment = str(card.keyword).upper(), card.value, card.comment
            number = isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value))
            if number and re.fullmatch(r"[A-Z0-9_-]{1,8}", keyword):
                return Card(keyword, value, comment)
    except Exception:  # as above: the card is beyond repair
        pass
    return None


def describing_cards(header: Header, *, commentary: bool = True) -> tuple[list[Card], list[str]]:
    """Return the cards of `header` that say something of the sky, valid ones only.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Not changed.
    commentary : bool
        Keep COMMENT and HISTORY. Blank cards and the standard's own boilerplate never are.

    Returns
    -------
    cards : list of astropy.io.fits.Card
        Copies, in their order, without structural, scaling, compression, checksum and lookup-distortion keywords.
    dropped : list of str
        One phrase for each kind of card that carried information and is gone; empty if none.
    """
    cards: list[Card] = []
    invalid: list[str] = []
    lookup = False
    for card in header.cards:
        name = keyword_of(card)
        if _STRUCTURE.fullmatch(name) or name == "":
            continue
        if _LOOKUP.fullmatch(name):
            lookup = True
        elif name in _COMMENTARY and (not commentary or any(text in str(card) for text in _BOILERPLATE)):
            continue
        elif (copy := valid_card(card)) is not None:
            cards.append(copy)
        else:
            invalid.append(name)
    dropped = []
    if invalid:
        dropped.append(f"{len(invalid)} cards that are not valid FITS: {', '.join(sorted(set(invalid)))}")
    if lookup:
        dropped.append("lookup-table distortion keywords (CPDIS, D2IMDIS): their arrays are in other extensions")
    return cards, dropped


def merge_primary(header: Header, primary: Header) -> Header:
    """Return `header` with the keywords that only `primary` has put after its own.

    The HDU's own value always wins. If it has any world coordinates, the primary's are left out entirely. Structural
    keywords of the primary describe the primary and are never taken, nor is BUNIT if the primary has pixels.
    """
    with quiet():
        merged = header.copy()
        own = {keyword_of(card) for card in header.cards}
        has_wcs = any(name.startswith("CTYPE") for name in own)
        if primary.get("NAXIS", 0):
            own.add("BUNIT")  # the unit of the primary's own pixels
        for card in primary.cards:
            name = keyword_of(card)
            if name in _COMMENTARY:
                if name and not any(text in str(card) for text in _BOILERPLATE):
                    merged.append(Card.fromstring(as_readable(card).image), end=True)
            elif name not in own and not _STRUCTURE.fullmatch(name) and not (has_wcs and WCS_CARD.fullmatch(name)):
                merged.append(Card.fromstring(as_readable(card).image), end=True)
    return merged


def valid_keywords(header: Header) -> Header:
    """Return only the valid value cards of `header` (NAXIS kept, so that a WCS knows the image's size)."""
    cards: Iterable[Card | None] = (valid_card(card) for card in header.cards if keyword_of(card) not in _COMMENTARY)
    with quiet():
        return Header([card for card in cards if card is not None])


def keyword_of(card: Card) -> str:
    """Return the keyword, upper case; of a card too broken to have one, its first word."""
    try:
        with quiet():
            return str(card.keyword).upper()
    except Exception:  # astropy raises several types for a card it cannot parse
        return str(card.image[:8]).strip().upper()
