"""What was decided, kept: a database, files beside it, and a chain that shows any change."""
