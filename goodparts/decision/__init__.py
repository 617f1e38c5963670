"""The decision: from distances and scores to thresholds and verdicts."""
