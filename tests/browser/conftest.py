"""A browser: Debian's Chromium without a window, driven by Playwright, and axe to judge what it shows.

`make .build/browser/ready` fetches all three. Where they are missing the tests fail in CI, and are skipped elsewhere. A page
that a test has opened must say nothing on its console and ask nobody but its own server.
"""

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
BUILT = REPOSITORY / ".build" / "browser"
IMAGES = REPOSITORY / "docs" / "images"
SCREENSHOTS = "ZOWARMUP_SCREENSHOTS"
"""In the environment: pictures of the page go to docs/images."""
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
WIDE, PHONE = (1440, 1000), (360, 740)


class Opened:
    """A page in the browser. `wanted`: whether pictures of it are."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self._url = page, url
        self.wanted = bool(os.environ.get(SCREENSHOTS))
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(url)

    def resized(self, size: tuple[int, int]) -> None:
        """Another size of the window. Nothing may stand out to the right of it."""
        self.page.set_viewport_size({"width": size[0], "height": size[1]})
        assert self.page.evaluate("document.documentElement.scrollWidth") <= size[0]

    def accessible(self) -> None:
        """axe finds nothing serious."""
        axe = (BUILT / "site" / "axe_playwright_python" / "axe.min.js").read_text(encoding="utf-8")
        self.page.evaluate(axe)
        found = self.page.evaluate("axe.run({resultTypes: ['violations']}).then((found) => found.violations)")
        grave = [one for one in found if one["impact"] in ("serious", "critical")]
        assert not grave, [(one["id"], [node["html"] for node in one["nodes"][:3]]) for one in grave]

    def shot(self, name: str, height: int = 0) -> None:
        """Keep a picture of it for the documents, where that is asked for. `height`: its pixels from the top; 0: all."""
        if not self.wanted:
            return
        options = (
            {"clip": {"x": 0, "y": 0, "width": self.page.viewport_size["width"], "height": height}} if height else {}
        )
        taken = Image.open(io.BytesIO(self.page.screenshot(full_page=True, **options))).convert("RGB")
        IMAGES.mkdir(exist_ok=True)
        taken.quantize(200, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)

    def silent(self) -> None:
        """It has said nothing on the console, and asked nobody but its own server."""
        assert self.said == []
        assert {urlsplit(url).netloc for url in self.asked if not url.startswith("data:")} == {
            urlsplit(self._url).netloc
        }


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    program = BUILT / "chromium"
    if not program.exists():
        what = "there is no Chromium: `make .build/browser/ready` fetches it where there is apt-get"
        assert not os.environ.get("CI"), what
        pytest.skip(what)
    sys.path.append(str(BUILT / "site"))
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(program), args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def look(chromium: Any) -> Iterator[Callable[..., Opened]]:
    """Opens a page, and asks in the end what it has said and asked for."""
    opened: list[Opened] = []

    def one(url: str, size: tuple[int, int] = WIDE, **options: Any) -> Opened:
        context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        opened.append(Opened(context.new_page(), url))
        return opened[-1]

    yield one
    for page in opened:
        page.page.context.close()
        page.silent()
