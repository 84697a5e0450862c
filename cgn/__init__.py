"""Counterfactual Generative Networks: images, mechanisms, training, sampling, quality."""
