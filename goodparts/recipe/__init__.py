"""The recipe: every setting of an inspector, its presets, and how values are read."""
