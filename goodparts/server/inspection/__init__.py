"""From an image that came in to a verdict: models, the queue, drift."""
