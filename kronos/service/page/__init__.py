"""The page: a few static files, known by name, and nothing from any other host.

In: a FastAPI application. Out: its routes `/` and `/assets/NAME`.
"""

from pathlib import Path

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response

from kronos.palette import BLUE, GREY, INK, OTHERS, RED

FOLDER = Path(__file__).parent
KINDS = {
    "page.js": "text/javascript",
    "words.js": "text/javascript",
    "chart.js": "text/javascript",
    "prices.js": "text/javascript",
    "lightweight-charts.js": "text/javascript",
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
    "LICENSE": "text/plain",
    "NOTICE": "text/plain",
}
"""Every file that is given out, and nothing else: no name of a caller's becomes a path."""
COLOURS = {
    "ink": INK,
    "blue": BLUE,
    "red": RED,
    "grey": GREY,
    "green": OTHERS[0],
    "gold": OTHERS[1],
    "soft": f"color-mix(in srgb, {INK} 70%, white)",
    "line": f"color-mix(in srgb, {GREY} 45%, white)",
    "paper": "white",
}


def add_routes(app: FastAPI) -> None:
    """Read the files and add their routes."""
    held = {name: (FOLDER / name).read_bytes() for name in KINDS}
    kinds = KINDS | {"colours.css": "text/css"}
    held["colours.css"] = _colours()
    index = (FOLDER / "index.html").read_bytes()

    @app.get("/", include_in_schema=False)
    async def start() -> Response:
        return _page(index, "text/html")

    @app.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in held:
            raise HTTPException(404)
        return _page(held[name], kinds[name])


def _page(content: bytes, kind: str) -> Response:
    return Response(content, media_type=f"{kind}; charset=utf-8", headers={"Cache-Control": "no-cache"})


def _colours() -> bytes:
    """The kit's colours as custom properties."""
    lines = [f"  --{name}: {value};" for name, value in COLOURS.items()]
    return "\n".join([":root {", *lines, "}", ""]).encode()
