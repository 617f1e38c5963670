"""What pages add: of a review the defect class and regions, of a model's version who made it and why."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add them, empty."""
    op.add_column("reviews", sa.Column("defect_class", sa.String(length=64), nullable=True))
    op.add_column("reviews", sa.Column("regions", sa.Text(), nullable=True))
    op.add_column("versions", sa.Column("author", sa.String(length=200), nullable=True))
    op.add_column("versions", sa.Column("note", sa.Text(), nullable=True))
