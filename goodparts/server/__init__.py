"""The service: inspections over HTTP, and a history of them that can be trusted."""
