"""Running a service: opened, served over HTTP, stopped when what was accepted is done."""

from __future__ import annotations

import logging
import shlex
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from goodparts.errors import GoodpartsError, ModelError
from goodparts.server.faults import Fault
from goodparts.server.logs import log_to
from goodparts.server.service import FirstStart, Service, open_service
from goodparts.server.settings import Settings

if TYPE_CHECKING:
    import uvicorn

_GRACEFUL = 60  # seconds that requests in work get when the service stops


def serve(settings: Settings, say: Callable[[str], None], *, example: str = "part.png") -> None:
    """Serve until somebody stops it.

    Args:
        settings: how.
        say: called with the lines that a person needs: the address, and at the first start what is shown only once.
        example: the image that the line for `curl` names.

    Raises:
        DatabaseError, ModelError, OutputError: it can't begin.
    """
    require_files(settings)
    log_to(logging.StreamHandler(), settings.log_format)
    service = open_service(settings)
    try:
        try:
            service.start()
        except Fault as fault:
            raise GoodpartsError(f"the service can't begin: {fault}") from fault
        server = make_server(service)
        for line in greeting(service, example):
            say(line)
        server.run()
    finally:
        service.close()


def make_server(service: Service) -> uvicorn.Server:
    """What listens for a service that has started, and closes it when it is told to stop."""
    import uvicorn

    from goodparts.server.app import make_app

    settings = service.settings
    config = uvicorn.Config(
        make_app(service),
        host=settings.host,
        port=settings.port,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http="httptools",
        ws="none",
        timeout_graceful_shutdown=_GRACEFUL,
    )

    class Server(uvicorn.Server):
        """Ends the pages' streams first: they would never end by themselves."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            service.feed.close()
            await super().shutdown(sockets)

    return Server(config)


def require_files(settings: Settings) -> None:
    """Raise ModelError, before anything is made, for a model that is not there and never was."""
    missing = [path for path in settings.models if not Path(path).exists()]
    if missing and not (settings.folder / "models").is_dir():
        raise ModelError(
            f"{missing[0]}: no such model; make one with `goodparts fit GOOD --model {missing[0]}`"
        )


def greeting(service: Service, example: str) -> list[str]:
    """What a person is told when the service begins."""
    settings = service.settings
    names = service.models.names()
    shown = (
        f"models: {', '.join(names)}"
        if names
        else f"no model yet: learn the first at {settings.address}/learn"
    )
    lines = [
        f"Address  {settings.address}  ({shown})",
        f"History  {service.database.shown}, images in {Path(settings.data) / 'files'}",
    ]
    token = "$GOODPARTS_TOKEN"
    if service.first is not None:
        lines += _first(service.first, with_line=bool(names))
        token = service.first.token
    if not settings.login:
        lines.append("Login    none is asked for: whoever uses this machine may do everything")
    elif not settings.loopback and settings.certificate is None and settings.trusted_proxy is None:
        lines.append(
            "warning: passwords and tokens cross the network unencrypted; give --certificate and --key, or put a "
            "reverse proxy before it"
        )
    bearer = f'-H "Authorization: Bearer {token}" ' if settings.login else ""
    if not names:
        return lines
    path = example if shlex.quote(example) == example else f"'{example}'"
    lines.append(
        f"Try      curl {bearer}--data-binary @{path} {settings.address}/api/v1/models/{names[0]}/inspections"
    )
    return lines


def _first(first: FirstStart, *, with_line: bool) -> list[str]:
    token = "the one in the line below" if with_line else first.token
    return [
        f"Account  admin, password {first.password}  (shown this once)",
        f"Token    {token} may inspect and read for 30 days; shown this once, too",
    ]
