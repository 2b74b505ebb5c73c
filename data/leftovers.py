"""Files and folders that systems leave beside people's own: on archives, network shares and memory cards."""

import re

_NAMES = {
    # macOS, and shares that it has written to
    *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder", "icon\r"),
    # Windows
    *("$recycle.bin", "recycler", "recycled", "system volume information", "$extend", "msocache", "config.msi"),
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
    # Linux and Android
    *("lost+found", "lost.dir", "aquota.user", "aquota.group"),
    # Synology, QNAP and NetApp
    *(
        "@eadir",
        "@tmp",
        "@sharebin",
        "@sharesnap",
        "#recycle",
        "#snapshot",
        "@recycle",
        "@recently-snapshot",
        "~snapshot",
    ),
    # Python
    "__pycache__",
}
_CHECKED_DISK = re.compile(r"found\.\d{3}")  # Windows' chkdsk


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is a system's and not its user's: hidden ones are, and those known by name,
    in whatever case."""
    folded = name.casefold()
    return name.startswith(".") or folded in _NAMES or bool(_CHECKED_DISK.fullmatch(folded))
