"""Images and data sets: how they are found, read, checked and rendered."""
