"""The pages of the service, for the person at the line and for the engineer: made here, small scripts do the rest."""
