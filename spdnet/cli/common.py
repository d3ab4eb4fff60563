"""What entry points share: how errors are shown, and options that several have."""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from spdnet.errors import ConfigurationError, PlansError, SPDError
from spdnet.files import DISK_ERRORS
from spdnet.geometry.image_geometry import axis_from_name
from spdnet.paths import DEFAULT_PLANS_NAME, preprocessed_root
from spdnet.prompts import PromptReading

_STDOUT = 1
_STATUS_OF_SIGPIPE = 128 + 13  # a shell's


def add_prompt_reading(parser: argparse.ArgumentParser) -> None:
    """`-frame` and `--outside`."""
    parser.add_argument("-frame", choices=("lps", "ras"), help="world frame of prompt files that do not say theirs")
    parser.add_argument(
        "--outside",
        choices=("error", "drop"),
        default="error",
        help="prompts outside their image are an error (default), or dropped and counted",
    )


def prompt_reading(args: argparse.Namespace) -> PromptReading:
    """What `add_prompt_reading`'s options say."""
    return PromptReading(args.frame, args.outside)


def prompts_beside(images: Path) -> Path | None:
    """`promptsTs` beside `imagesTs`, whether it is there or not; None for a folder that is not called so."""
    folder = images.absolute()
    sibling = folder.with_name(folder.name.replace("images", "prompts", 1))
    return sibling if sibling != folder else None


def close_bars() -> None:
    """Close the progress bars that an error has left open, so that its message has a line of its own below them."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def entry_point(main: Callable[[list[str] | None], None]) -> Callable[..., None]:
    """Decorate a `main(argv)`: errors of users and disks are printed without traceback; exit status 1.

    Where whoever reads the output has gone, as `head` does, the command ends quietly by the status of SIGPIPE.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        try:
            main(argv)
            if sys.stdout is not None:  # as it is where the shell has closed it
                sys.stdout.flush()
        except SPDError as error:
            _stop(str(error))
        except BrokenPipeError:
            if not _silence_unread_output():
                raise
            sys.exit(_STATUS_OF_SIGPIPE)
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            _stop(f"{error.filename or 'writing failed'}: {error.strerror}")

    return wrapped


def _stop(message: str) -> NoReturn:
    """Say what is wrong, below the progress bars, and exit with status 1."""
    close_bars()
    print(f"error: {message}", file=sys.stderr)
    _silence_unread_output()
    sys.exit(1)


def _silence_unread_output() -> bool:
    """Whether standard output is a pipe without a reader; what is left for it goes nowhere then."""
    if os.name != "posix":
        return False
    output = select.poll()
    output.register(_STDOUT, 0)  # broken pipes are always told
    if not output.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)
    return True


def planned_slicing_axis(dataset_name: str) -> int | None:
    """Slicing axis of the default plans, or None if the data set has not been planned."""
    try:
        file = preprocessed_root() / dataset_name / f"{DEFAULT_PLANS_NAME}.json"
    except ConfigurationError:
        return None
    if not file.exists():
        return None
    try:
        return axis_from_name(json.loads(file.read_text(encoding="utf-8"))["spd"]["slicing_axis"])
    except (ValueError, KeyError, TypeError) as error:
        raise PlansError(
            f"{file} does not say a slicing axis S, P or L under spd, slicing_axis. Run spd_plan_experiment again"
        ) from error
