"""Counterfactual images: sampled, abducted, recombined."""
