"""What was learnt: how it is fitted, updated, kept in a file and exported."""
