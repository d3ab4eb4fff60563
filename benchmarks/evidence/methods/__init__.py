"""The methods by name, one module a family."""

from __future__ import annotations

from evidence.methods import frozen_sam, nnunet, sam2, sam_refiner, spd
from evidence.methods.base import Method

FAMILIES = (spd, frozen_sam, sam_refiner, nnunet, sam2)
METHODS: dict[str, Method] = {name: method for family in FAMILIES for name, method in family.METHODS.items()}
