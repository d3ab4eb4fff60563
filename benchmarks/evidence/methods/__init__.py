"""The methods by name, one module a family."""

from __future__ import annotations

from evidence.methods import frozen_sam, labels, medsam, nnunet, sam2, sam_adapter, sam_refiner, spd, unets
from evidence.methods.base import Method

FAMILIES = (spd, frozen_sam, sam_refiner, medsam, sam_adapter, unets, nnunet, sam2, labels)
METHODS: dict[str, Method] = {name: method for family in FAMILIES for name, method in family.METHODS.items()}
