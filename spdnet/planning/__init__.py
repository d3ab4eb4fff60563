"""Fingerprint, plans and preprocessing: a data set is measured, decided upon and made ready, in that order."""

from spdnet.planning.fingerprint import Fingerprint, extract_fingerprint
from spdnet.planning.planned_network import build_planned_network
from spdnet.planning.planner import PLANNERS, SPDPlanner
from spdnet.planning.plans import SPDPlans, SPDSettings
from spdnet.planning.preprocessor import NetworkCase, SPDPreprocessor, preprocess_image
from spdnet.planning.storage import StoredCase

__all__ = [
    "PLANNERS",
    "Fingerprint",
    "NetworkCase",
    "SPDPlanner",
    "SPDPlans",
    "SPDPreprocessor",
    "SPDSettings",
    "StoredCase",
    "build_planned_network",
    "extract_fingerprint",
    "preprocess_image",
]
