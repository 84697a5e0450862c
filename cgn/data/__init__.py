"""Images with their factors, in memory and on disk."""
