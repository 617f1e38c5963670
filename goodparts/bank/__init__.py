"""The memory bank: how its entries are chosen and searched."""
