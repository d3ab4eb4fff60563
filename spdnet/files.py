"""Writing JSON whole or not at all, and reading it with an error that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spdnet.errors import SPDError


def write_json(file: Path, content: Any, indent: int | None = 4) -> None:
    """Write JSON to a partial file beside the target, then rename; key order is kept."""
    partial = file.with_name(f".partial_{file.name}")
    partial.write_text(json.dumps(content, indent=indent))
    partial.replace(file)


def read_json(file: Path, what: str, remedy: str, error: type[SPDError] = SPDError) -> Any:
    """Read JSON; `what` is the file's role and `remedy` what to do if it is missing.

    Raises:
        error: the file is missing or not JSON.
    """
    try:
        return json.loads(file.read_text())
    except FileNotFoundError as cause:
        raise error(f"{what} {file} is missing. {remedy}") from cause
    except json.JSONDecodeError as cause:
        raise error(f"{what} {file} is not valid JSON: {cause}. {remedy}") from cause
