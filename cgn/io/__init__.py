"""Files that come from elsewhere, read without trust: weights, and what headers say."""
