"""The methods by name, one module a family."""

from __future__ import annotations

from evidence.methods import spd
from evidence.methods.base import Method

METHODS: dict[str, Method] = {**spd.METHODS}
