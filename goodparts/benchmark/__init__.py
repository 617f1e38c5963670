"""Whole data sets measured category by category."""
