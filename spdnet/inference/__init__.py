"""Prediction: one volume through the network, trained model folders, and folders of images."""

from spdnet.inference.model_folder import ModelFolder, find_model
from spdnet.inference.predictor import CasePrediction, SPDPredictor

__all__ = ["CasePrediction", "ModelFolder", "SPDPredictor", "find_model"]
