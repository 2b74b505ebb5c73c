"""Files that systems leave in folders and archives, which are no data.

Only names that nobody would give a class are here: one that is taken for a leftover is passed over in silence.
"""

import re

_BY_SYSTEM = {
    "macOS": "__macosx|network trash folder|temporary items|thevolumesettingsfolder|icon\r|desktop db|desktop df",
    "Windows": "$recycle.bin|system volume information|$extend|$windows.~bt|msocache|config.msi",
    "its files": "thumbs.db|ehthumbs.db|ehthumbs_vista.db|desktop.ini|picasa.ini",
    "Linux and Android": "lost+found|lost.dir|aquota.user|aquota.group",
    "Synology": "@eadir|@tmp|@sharebin|@sharesnap|#recycle|#snapshot",
    "QNAP and NetApp": "@recycle|@recently-snapshot|@__thumb|~snapshot",
    "Python": "__pycache__",
}
_NAMES = {name for names in _BY_SYSTEM.values() for name in names.split("|")}
# Windows' chkdsk; and what Windows and Synology's shares keep of a file beside it.
_PATTERN = re.compile(r"found\.\d{3}|.+(:zone\.identifier|:encryptable|@synoeastream|@synoresource)", re.DOTALL)


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is a system's and not its user's: hidden ones are, and those known by name,
    in whatever case."""
    folded = name.casefold()
    return name.startswith(".") or folded in _NAMES or bool(_PATTERN.fullmatch(folded))
