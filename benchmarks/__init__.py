"""A robustness benchmark suite around Counterfactual Generative Networks."""
