"""The page's files, as they are served, and as one file that needs no server.

Nothing of the page comes from elsewhere, and its policy allows nothing else: scripts and styles are these files alone, no text
becomes markup (`require-trusted-types-for`), no other page may frame it. In the page as one file, scripts and styles stand
in it and are allowed by their hashes.
"""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from zowarmup.server.telemetry.http import Application
from zowarmup.server.telemetry.page.view import encoded

FOLDER = Path(__file__).parent / "static"
INDEX = "index.html"
KINDS = {
    INDEX: "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "uPlot.css": "text/css; charset=utf-8",
    "uPlot.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_COMMON = "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    f"frame-ancestors 'none'; {_COMMON}"
)


def applications() -> dict[str, Application]:
    """An application for each file, by its path."""
    found = {f"/{name}": _file(name) for name in KINDS if name != INDEX}
    return {"/": _file(INDEX), **found}


def _file(name: str) -> Application:
    body = (FOLDER / name).read_bytes()
    headers = [
        (b"content-type", KINDS[name].encode()),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-cache"),
        (b"content-security-policy", POLICY.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"cross-origin-opener-policy", b"same-origin"),
    ]

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return application


def as_one_file(state: dict[str, Any]) -> bytes:
    """The page of a state (`PageView.whole`) that needs nothing beside it."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}

    def inline(kind: str, name: str) -> str:
        text = (FOLDER / name).read_text(encoding="utf-8")
        hashes[kind].append(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
        return f"<{kind}>{text}</{kind}>"

    page = (FOLDER / INDEX).read_text(encoding="utf-8")
    icon = base64.b64encode((FOLDER / "icon.svg").read_bytes()).decode()
    page = page.replace('href="icon.svg"', f'href="data:image/svg+xml;base64,{icon}"')
    page = re.sub(r'<link rel="stylesheet" href="([^"]+)">', lambda found: inline("style", found[1]), page)
    page = re.sub(r'<script src="([^"]+)"></script>', lambda found: inline("script", found[1]), page)
    # Within a script nothing but "<" can end it or begin a comment.
    data = encoded(state).decode("ascii").replace("<", "\\u003c")
    policy = f"default-src 'none'; script-src {' '.join(hashes['script'])}; style-src {' '.join(hashes['style'])}; img-src data:"
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}; {_COMMON}">'
    page = page.replace("<head>", f"<head>\n{head}", 1)
    return page.replace("<!-- state -->", f'<script type="application/json" id="state">{data}</script>', 1).encode()
