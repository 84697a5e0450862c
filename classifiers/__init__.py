"""Classifiers: networks, objectives, and recipes to fit them."""

from classifiers.recipes import MODELS
from classifiers.specs import is_spec, load_model

__all__ = ["MODELS", "is_spec", "load_model"]
