"""Names and addresses as text that may be shown, logged and kept: without secrets, harmless to what shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

#: Passwords of addresses in a text, whole or broken: what stands before an "@", with a space in it only after a colon;
#: what follows a "?" or a "#".
_BEFORE_AT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:[/\\]+)(?:\S*@|[^@\n]*:[^@\n]*@)")
_AFTER_PATH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:[/\\]+[^\s?#]*)[?#]\S*")
#: Characters of a name beside others in a figure.
_LABEL = 60


def without_secrets(text: str) -> str:
    """Return a text in which nothing is left of addresses that may be a password or a key."""
    return _AFTER_PATH.sub(r"\1?***", _BEFORE_AT.sub(r"\1***@", text)) if ":" in text else text


def plain(text: object) -> str:
    """Return one line for a terminal, without secrets; what a terminal obeys or does not show is spelled out."""
    return spelled(without_secrets(str(text)))


def spelled(text: str) -> str:
    """Return a text with its control characters as Python writes them: a newline is a backslash and an n."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(count: int, noun: str) -> str:
    """Return a number of things: "1 worker", "2 workers"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return the end of an error about a name that is not known: "; did you mean 'x'?", or nothing if none is like it.

    Upper and lower case are one.
    """
    names = {str(one).lower(): str(one) for one in known}
    near = get_close_matches(str(name)[:_LABEL].lower(), names, n=1)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def figure_label(name: object) -> str:
    """Return a name as matplotlib shows it: no formula, no line break, not left out for its underscore, not endless."""
    said = spelled(str(name))
    said = said if len(said) <= _LABEL else f"{said[: _LABEL // 2]}…{said[-_LABEL // 2 :]}"
    return (f" {said}" if said.startswith("_") else said).replace("$", r"\$")
