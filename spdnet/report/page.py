"""The HTML page: assets and data put together into text. No user text reaches it but escaped or inside JSON."""

from __future__ import annotations

import html
import json
import re
from importlib.resources import files
from typing import Any

# in this order; all share one scope
SCRIPTS = (
    "dom.js",
    "colours.js",
    "data.js",
    "planes.js",
    "contours.js",
    "points.js",
    "charts.js",
    "table.js",
    "overview.js",
    "state.js",
    "pane.js",
    "pointer.js",
    "strip.js",
    "viewer.js",
    "main.js",
)
CASE_PREFIX, CASE_SUFFIX = "spdReceiveCase(", ");\n"


def json_text(content: Any) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element or starts a comment."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def case_script(index: int, payload: dict[str, Any]) -> str:
    """The content of a file that hands a case to the page when it is loaded as a script."""
    return f"{CASE_PREFIX}{index},{json_text(payload)}{CASE_SUFFIX}"


def inline_case(index: int, script: str) -> str:
    """A case's script as an element of the page that holds data only."""
    start = len(f"{CASE_PREFIX}{index},")
    return f'<script type="application/json" id="case-{index}">{script[start : -len(CASE_SUFFIX)]}</script>\n'


def render_page(title: str, overview: dict[str, Any], inline_cases: str) -> str:
    """The whole page.

    Args:
        title: any text.
        overview: plain data for the page's scripts.
        inline_cases: elements of `inline_case`, or nothing.
    """
    script = "\n".join(_asset(name) for name in SCRIPTS)
    parts = {
        "TITLE": html.escape(title),
        "STYLE": _asset("style.css"),
        "SCRIPT": f'(function () {{\n"use strict";\n{script}\n}})();',
        "DATA": f'<script type="application/json" id="overview">{json_text(overview)}</script>\n{inline_cases}',
    }
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: parts[match[1]], _asset("index.html"))


def _asset(name: str) -> str:
    return (files("spdnet.report") / "assets" / name).read_text(encoding="utf-8")
