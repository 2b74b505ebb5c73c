"""The live page of a demo: where it is, and what it says in the end, as one file."""

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

from zowarmup.server.telemetry.page.assets import as_one_file
from zowarmup.server.telemetry.page.report import as_kept, state_on_disk

FILE = "report.html"
ANSWER_S = 5.0
_PAGE = re.compile(r" page at (http://\S+/)")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def page_url(log: Path) -> str:
    """Where the page of a coordinator is, as its log says; empty where it has none, or asks for a password."""
    try:
        found = _PAGE.search(log.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return found[1] if found else ""


def kept_page(url: str, data_dir: Path) -> bytes:
    """The page as one file: of the coordinator at `url`, or, where that does not answer, of its data directory. Raises
    ArchiveError where there is no run."""
    return as_one_file(_said(url) or state_on_disk(data_dir))


def _said(url: str) -> dict[str, Any] | None:
    if not url:
        return None
    try:
        with _DIRECT.open(f"{url}state.json", timeout=ANSWER_S) as answer:
            return as_kept(json.load(answer))
    except (OSError, ValueError):
        return None
