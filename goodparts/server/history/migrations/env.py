"""Run by Alembic: migrates the database of the connection that it is handed."""

from __future__ import annotations

from alembic import context

from goodparts.server.history.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=False,  # whoever calls has begun a transaction, and ends it
)
context.run_migrations()
