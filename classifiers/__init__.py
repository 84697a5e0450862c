"""Classifiers: networks, objectives and recipes. What scores them is not here."""

from classifiers.recipes import RECIPES

MODELS = {recipe.name: recipe for recipe in RECIPES}
