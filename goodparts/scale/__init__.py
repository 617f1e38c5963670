"""Many jobs side by side."""
