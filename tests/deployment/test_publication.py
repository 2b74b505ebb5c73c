"""What is published: a wheel and a source archive that the package index takes and that are one another's, and a site of the
documents whose links lead somewhere and which asks nobody else for anything."""

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from deploy.supply.lock import lacking
from tests.deployment.conftest import REPOSITORY, built
from tests.patience import PATIENCE

QUIET = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}


def run(*command: str, where: Path = REPOSITORY) -> str:
    done = subprocess.run(
        command, cwd=where, env=QUIET, capture_output=True, text=True, check=False, timeout=PATIENCE * 60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(*target: str, out: Path, where: Path = REPOSITORY) -> None:
    targets = [word for name in target for word in ("--target", name)]
    run(sys.executable, "-m", "hatchling", "build", *targets, "--directory", str(out), where=where)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the source archive."""
    out = tmp_path_factory.mktemp("packages")
    build("wheel", "sdist", out=out)
    (wheel,), (source,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, source


def test_the_package_index_would_take_them(packages: tuple[Path, Path]) -> None:
    run(built("docs/bin/twine"), "check", "--strict", *map(str, packages))
    run(built("docs/bin/check-wheel-contents"), str(packages[0]))


def test_the_source_archive_is_the_repository_and_makes_the_same_wheel(
    packages: tuple[Path, Path], tmp_path: Path
) -> None:
    wheel, source = packages
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    build("wheel", out=tmp_path / "dist", where=root)
    assert (tmp_path / "dist" / wheel.name).read_bytes() == wheel.read_bytes()
    if (REPOSITORY / ".git").exists():
        tracked = run("git", "ls-files").splitlines()
        assert [name for name in tracked if not (root / name).exists() and (REPOSITORY / name).exists()] == []


def test_a_low_tier_device_builds_nothing() -> None:
    """For each of its packages there is a wheel, for every Python, on x86-64 and on 64-bit Arm."""
    text = (REPOSITORY / "requirements/client.txt").read_text(encoding="utf-8")
    files = re.findall(r"^#   (\S+)$", text, re.MULTILINE)
    assert len(files) == len(re.findall(r"--hash=", text))
    names = [name.replace("-", "_") for name in re.findall(r"^([\w-]+)==", text, re.MULTILINE)]
    assert len(names) >= 6
    for name in names:
        own = [file for file in files if file.partition("-")[0].lower() == name]
        assert own and not [file for file in own if not file.endswith(".whl")]
        assert lacking(own) == [], f"{name}: run `make lock`, and see which Linux is left out"


def test_the_tools_are_pinned() -> None:
    text = (REPOSITORY / "docs/requirements.txt").read_text(encoding="utf-8")
    pinned = re.findall(r"^([\w.-]+)==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    assert len(pinned) > 30 and len(pinned) == len(re.findall(r"^\w", text, re.MULTILINE))


def test_the_citation_is_one_and_of_this_version(packages: tuple[Path, Path]) -> None:
    path = REPOSITORY / "CITATION.cff"
    checker = Path(sys.executable).parent / "check-jsonschema"
    run(str(checker), "--builtin-schema", "vendor.citation-file-format", str(path))
    assert packages[0].name.startswith(f"zowarmup-{yaml.safe_load(path.read_text(encoding='utf-8'))['version']}-")


def test_a_link_that_leads_nowhere_fails_the_site(packages: tuple[Path, Path], tmp_path: Path) -> None:
    with tarfile.open(packages[1]) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    with (root / "docs/sizing.md").open("a", encoding="utf-8") as page:
        page.write("[a page](nowhere.md), [a place](method.md#nowhere)\n")
    done = subprocess.run(
        [built("docs/bin/mkdocs"), "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=root, env=QUIET, capture_output=True, text=True, check=False, timeout=PATIENCE * 60,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("WARNING")) == (1, 2), done.stderr


class Fetched(HTMLParser):
    """What a browser fetches of its own accord to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.addresses.append(given.get("href", ""))
        elif tag != "a":
            self.addresses += [given[name] for name in ("src", "srcset", "poster", "data") if name in given]


def test_the_site_is_whole_and_asks_nobody_else(tmp_path: Path) -> None:
    """A link or an anchor that leads nowhere fails the build, and so does a page that is in no place of the navigation."""
    run(built("docs/bin/mkdocs"), "build", "--strict", "--site-dir", str(tmp_path))
    pages = sorted(tmp_path.rglob("*.html"))
    assert {"index.html", "docs/index.html", "docs/method.html", "docs/first-fleet.html", "CHANGELOG.html"} <= {
        page.relative_to(tmp_path).as_posix() for page in pages
    }
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "```" not in text, f"{page.name}: a block that is shown as it is written"
        found = Fetched()
        found.feed(text)
        elsewhere = [
            address for address in found.addresses if re.match(r"(\w+:)?//", address) and "data:" not in address
        ]
        assert found.addresses and elsewhere == [], page.name
    for sheet in tmp_path.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")) == [], (
            sheet.name
        )
    index = (tmp_path / "search/search_index.json").read_text(encoding="utf-8")
    assert "directional derivative" in index, "search is the site's own"
