"""report.json and report.png."""

import json
from pathlib import Path

from zowarmup.cli.failure import CommandError
from zowarmup.common.system.files import replacing
from zowarmup.lab.demo.report_figure import draw
from zowarmup.lab.demo.result import Result


def write_report(result: Result, out: Path) -> tuple[Path, Path]:
    """Write both into `out`; their paths. Raises CommandError where they cannot be written."""
    numbers, figure = out / "report.json", out / "report.png"
    try:
        with replacing(numbers) as partial:
            partial.write_text(json.dumps(result.to_json(), indent=2) + "\n", encoding="utf-8")
        draw(result, figure)
    except OSError as error:
        raise CommandError(
            f"{out}: the report cannot be written: {error.strerror or error}; free space, or name another folder"
        ) from error
    return numbers, figure
