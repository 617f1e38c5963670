"""All words of the pages: one file a language, `en.toml` first; each other one has the same keys."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any

LANGUAGES = {"en": "English", "de": "Deutsch"}
"""By code, each in its own words."""
FIRST = "en"


@cache
def texts(language: str) -> dict[str, Any]:
    """The words of a language, by page."""
    file = resources.files("goodparts.server.pages").joinpath("texts", f"{language}.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def language_of(chosen: str | None, accepted: str) -> str:
    """The language that was chosen, else the first of `Accept-Language` that there is, else English."""
    if chosen in LANGUAGES:
        return str(chosen)
    weighted = []
    for place, one in enumerate(accepted[:500].split(",")):
        name, _, weight = one.strip().partition(";q=")
        try:
            weighted.append((-float(weight or 1), place, name.lower()[:2]))
        except ValueError:
            continue
    return next((name for _, _, name in sorted(weighted) if name in LANGUAGES), FIRST)
