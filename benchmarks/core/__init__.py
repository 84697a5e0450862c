"""What everything else is said in: suites, models, scores, statistics."""
