"""What classifiers minimise."""
