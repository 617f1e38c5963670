"""How well verdicts and maps fit a labelled test set."""
