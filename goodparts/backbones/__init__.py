"""Pretrained networks: which there are, where they are kept, and how files of them are read."""
