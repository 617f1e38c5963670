"""The addresses of the pages."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from goodparts.server.faults import NotFound, NotLoggedIn
from goodparts.server.pages.frame import PAGES, page, render, static_file
from goodparts.server.routes.asked import InspectionId, needs

router = APIRouter(include_in_schema=False)


@router.get("/")
async def start() -> Response:
    """What one sees first."""
    return RedirectResponse("/live", 303)


@router.get("/login")
async def login(request: Request) -> Response:
    """Where one logs in; who is logged in goes on."""
    try:
        await needs(None)(request)
    except NotLoggedIn:
        return render(request, "login", None)
    return RedirectResponse("/live", 303)


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """A script or a style."""
    found = static_file(name)
    if found is None:
        raise NotFound("there is nothing here")
    return found


@router.get("/inspections/{inspection}")
async def one(request: Request, inspection: InspectionId) -> Response:
    """Everything about one part; can be printed."""
    return await page(request, "inspection", "read", inspection=inspection)


def _add(name: str) -> None:
    async def show(request: Request) -> Response:
        return await page(request, name, PAGES[name])

    router.add_api_route(f"/{name}", show, methods=["GET"], name=name, include_in_schema=False)


for _name in PAGES:
    _add(_name)
