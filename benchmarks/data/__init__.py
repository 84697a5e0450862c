"""Data on disk: where it lies, how it is fetched, what classifiers are fitted to."""
