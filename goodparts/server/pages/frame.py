"""What all pages share: templates, static files by their hash, language and theme, and who may look."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from goodparts.server.access.permissions import Identity
from goodparts.server.faults import NotAllowed, NotLoggedIn
from goodparts.server.pages.texts import LANGUAGES, language_of, texts
from goodparts.server.routes.asked import needs, service_of
from goodparts.version import __version__

LANGUAGE_COOKIE, THEME_COOKIE = "goodparts_language", "goodparts_theme"
THEMES = ("light", "dark")
PAGES = {
    "live": "read",
    "try": "inspect",
    "review": "review",
    "history": "read",
    "decide": "models",
    "learn": "models",
    "models": "read",
    "system": "read",
}
"""Each page of the navigation, in its order, and the permission that it needs."""
_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


async def page(request: Request, name: str, permission: str | None, **values: Any) -> Response:
    """A page for whoever may see it; the log-in for whom nobody knows, and a plain word for who may not."""
    try:
        identity = await needs(permission)(request)
    except NotLoggedIn:
        where = quote(request.url.path + (f"?{request.url.query}" if request.url.query else ""))
        return RedirectResponse(f"/login?next={where}", 303)
    except NotAllowed:
        return render(request, "refused", await needs(None)(request), status=403)
    return render(request, name, identity, **values)


def render(
    request: Request, name: str, identity: Identity | None, *, status: int = 200, **values: Any
) -> Response:
    """A page from its template."""
    language = language_of(request.cookies.get(LANGUAGE_COOKIE), request.headers.get("accept-language", ""))
    words = texts(language)
    theme = request.cookies.get(THEME_COOKIE)
    text = _templates().get_template(f"{name}.html.jinja")
    shown = [
        one
        for one, permission in PAGES.items()
        if identity is not None and permission in identity.permissions
    ]
    body = text.render(
        page=name,
        t=words,
        language=language,
        languages=LANGUAGES,
        theme=theme if theme in THEMES else "",
        identity=identity,
        navigation=shown,
        logged_in=identity is not None and identity.by == "session",
        for_script=json_block({**words["script"], **words.get(f"{name}_script", {})}),
        models=service_of(request).models.names() if identity is not None else [],
        version=__version__,
        **values,
    )
    return Response(body, status_code=status, media_type="text/html")


def json_block(value: Any) -> Markup:
    """JSON that can stand inside a script element, whatever is in it."""
    text = json.dumps(value, ensure_ascii=True).replace("<", "\\u003c").replace("&", "\\u0026")
    return Markup(text)


def static_file(name: str) -> Response | None:
    """One of the scripts and styles; None where there is none of that name."""
    found = _files().get(name)
    if found is None:
        return None
    kind = _TYPES[name.rsplit(".", 1)[-1]]
    return Response(found, media_type=kind, headers={"Cache-Control": "public, max-age=31536000, immutable"})


@cache
def _files() -> dict[str, bytes]:
    folder = resources.files("goodparts.server.pages").joinpath("static")
    return {one.name: one.read_bytes() for one in folder.iterdir() if one.name.rsplit(".", 1)[-1] in _TYPES}


@cache
def _address(name: str) -> str:
    """Of a static file, another one whenever what is in it changes."""
    return f"/static/{name}?{hashlib.sha256(_files()[name]).hexdigest()[:12]}"


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("goodparts.server.pages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["static"] = _address
    return environment
