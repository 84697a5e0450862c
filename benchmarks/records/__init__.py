"""Results on disk: predictions, rows, leaderboards, comparisons, and the regression gate."""
