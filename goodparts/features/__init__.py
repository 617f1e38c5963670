"""Patch features: how they are computed, whitened, projected and kept."""
