"""What all entry points share: how errors are shown."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable

from spdnet.errors import SPDError


def entry_point(main: Callable[[list[str] | None], None]) -> Callable[..., None]:
    """Decorate a `main(argv)`: user errors are printed without traceback and end with exit status 1."""

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        try:
            main(argv)
        except SPDError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    return wrapped
