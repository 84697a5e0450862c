"""Comparisons of models beyond the stored results: files of predictions, and planned runs."""
