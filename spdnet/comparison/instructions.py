"""nnU-Net's inference instructions, made right for models of spdnet.

nnU-Net knows only its own prediction command; a model of spdnet is to be run with its prompts by `spd_predict`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection
from typing import TextIO

PROMPTS_NOTE = (
    "(PROMPTS_FOLDER holds the points of each image, CASE.mrk.json; if there are none, write --no_prompts instead of "
    "-prompts PROMPTS_FOLDER.)"
)
_PREDICT = re.compile(
    r"nnUNetv2_predict -d (?P<dataset>\S+) -i (?P<input>\S+) -o (?P<output>\S+) -f (?P<folds>.*?) -tr (?P<trainer>\S+)"
    r" -c (?P<configuration>\S+) -p (?P<plans>\S+)(?P<rest>.*)"
)


def spd_line(line: str, spd_models: Collection[str]) -> str:
    """A line of nnU-Net's instructions, with the command of spdnet if it predicts with one of these models.

    Args:
        line: without line end.
        spd_models: names `Trainer__Plans__2d`.
    """
    match = _PREDICT.fullmatch(line.strip())
    if match is None or f"{match['trainer']}__{match['plans']}__{match['configuration']}" not in spd_models:
        return line
    folds = " ".join(match["folds"].split())
    command = (
        f"spd_predict -d {match['dataset']} -i {match['input']} -o {match['output']} -f {folds} "
        f"-tr {match['trainer']} -c {match['configuration']} -p {match['plans']} -prompts PROMPTS_FOLDER"
    )
    return command + (" --save_probabilities" if "--save_probabilities" in match["rest"] else "")


def spd_instructions(text: str, spd_models: Collection[str]) -> str:
    """nnU-Net's whole instructions with the commands of spdnet, and what PROMPTS_FOLDER is; others are unchanged."""
    lines = [spd_line(line, spd_models) for line in text.splitlines()]
    last = max((i for i, line in enumerate(lines) if line.startswith("spd_predict ")), default=None)
    if last is not None:
        lines.insert(last + 1, PROMPTS_NOTE)
    return "\n".join(lines) + "\n"


class LineRewriter(io.TextIOBase):
    """A text stream that passes whole lines on, each changed by a function."""

    def __init__(self, target: TextIO, change: Callable[[str], str]) -> None:
        self.target = target
        self.change = change
        self.pending = ""

    def writable(self) -> bool:
        """See the base class."""
        return True

    def write(self, text: str) -> int:
        """See the base class; what follows the last line end waits for the next call or `finish`."""
        *lines, self.pending = (self.pending + text).split("\n")
        for line in lines:
            self.target.write(self.change(line) + "\n")
        return len(text)

    def flush(self) -> None:
        """See the base class."""
        self.target.flush()

    def finish(self) -> None:
        """Pass on what is left."""
        if self.pending:
            self.target.write(self.change(self.pending))
        self.pending = ""
        self.target.flush()
