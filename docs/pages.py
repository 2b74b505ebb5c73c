"""The pages of the site: the documents of the repository, and the files that they link to.

A hook of mkdocs (mkdocs.yml). The site has the layout of the repository: docs/method.md is docs/method.html beside
examples/digits.toml. So a relative link that holds in the repository holds in the site, and the documents need nothing that
a plain reader of Markdown does not know.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).parent.parent
DOCUMENTS = ("*.md", "docs/**/*.md", "deploy/**/*.md")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's own files, the documents, and what they link to. `files`: what mkdocs has found in docs/ and in the theme."""
    found = Files([file for file in files if file.src_dir != config.docs_dir])
    for path in sorted(pages()):
        name = path.relative_to(REPOSITORY).as_posix()
        found.append(File.generated(config, name, abs_src_path=str(path)))
    return found


def pages() -> set[Path]:
    """The documents, and every file that one of them leads to."""
    left = [path for pattern in DOCUMENTS for path in REPOSITORY.glob(pattern)]
    found: set[Path] = set()
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            left += linked(path) if path.suffix == ".md" else []
    return found


def linked(document: Path) -> list[Path]:
    """The files of the repository that a document links to."""
    links = LINK.findall(document.read_text(encoding="utf-8"))
    targets = [(document.parent / link).resolve() for link in links if "://" not in link]
    return [target for target in targets if target.is_file()]
