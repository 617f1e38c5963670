"""The tables. Times are microseconds since 1970 (UTC); what is JSON is canonical text, the same in every database."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

METADATA = MetaData()

# Bytes, not a language, decide how identifiers sort.
IDENTIFIER = String(32).with_variant(String(32, collation="C"), "postgresql")
SEQUENCE = BigInteger().with_variant(Integer(), "sqlite")
NONE = "none"
"""The review of what nobody has reviewed."""

inspections = Table(
    "inspections",
    METADATA,
    Column("id", IDENTIFIER, primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("model", String(64), nullable=False),
    Column("model_version", String(64), nullable=False),  # identity of the model
    Column("recipe", String(64), nullable=False),  # sha256 of the recipe's keys of the product
    Column("part", String(200)),
    Column("line", String(200)),
    Column("camera", String(200)),
    Column("details", Text, nullable=False),  # JSON: whatever came with the image
    Column("account", String(200), nullable=False),
    Column("request", String(64), nullable=False),
    Column("image_sha256", String(64), nullable=False),
    Column("image_bytes", BigInteger, nullable=False),
    Column("image_type", String(40), nullable=False),
    Column("bit_depth", Integer, nullable=False),  # how many of 16 bits were in use; 0: all
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("verdict", String(10), nullable=False),
    Column("score", Double, nullable=False),
    Column("threshold", Double, nullable=False),
    Column("p_value", Double, nullable=False),
    Column("borderline", Boolean, nullable=False),
    Column("pixel_threshold", Double, nullable=False),
    Column("typical_pixel", Double),
    Column("zones", Text, nullable=False),  # JSON
    Column("regions", Text, nullable=False),  # JSON
    Column("reasons", Text, nullable=False),  # JSON
    Column("decode_ms", Double, nullable=False),
    Column("wait_ms", Double, nullable=False),
    Column("inference_ms", Double, nullable=False),
    Column("findings_sha256", String(64), nullable=False),
    Column("findings_bytes", BigInteger, nullable=False),
    # What follows may change later, and is not part of the row's digest.
    Column("kept", Boolean, nullable=False),  # whether image and maps are
    Column("review", String(10), nullable=False),
)
MUTABLE = frozenset({"kept", "review"})
LATER = frozenset({"defect_class", "regions"})
"""Columns that came later: where they are empty a row has the digest that it always had."""

# A page is found in one of these alone: what else it asks for stands in the index, too (`pages` chooses).
_of = inspections.c
Index("ix_inspections_model_verdict", _of.model, _of.verdict, _of.id, _of.borderline, _of.review)
Index("ix_inspections_model", _of.model, _of.id, _of.verdict, _of.borderline, _of.review)
Index("ix_inspections_verdict", _of.verdict, _of.id, _of.model, _of.borderline, _of.review)
Index("ix_inspections_borderline", _of.borderline, _of.id, _of.model, _of.verdict, _of.review)
Index("ix_inspections_review", _of.review, _of.id, _of.model, _of.verdict, _of.borderline)
Index("ix_inspections_part", _of.part, _of.id, _of.model, _of.verdict, _of.borderline, _of.review)
# For retention, and for files that several rows share.
Index("ix_inspections_kept", _of.kept, _of.verdict, _of.borderline, _of.review, _of.id)
Index("ix_inspections_image", _of.image_sha256)
Index("ix_inspections_findings", _of.findings_sha256)

reviews = Table(
    "reviews",
    METADATA,
    Column("id", IDENTIFIER, primary_key=True),
    Column("inspection", IDENTIFIER, nullable=False, index=True),
    Column("time", BigInteger, nullable=False),
    Column("account", String(200), nullable=False),
    Column("label", String(10), nullable=False),  # GOOD, BAD, UNSURE, or none: an earlier word is taken back
    Column("comment", Text, nullable=False),
    Column("defect_class", String(64)),
    Column("regions", Text),  # JSON: boxes that somebody drew
)

accounts = Table(
    "accounts",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("password", String(200), nullable=False),  # argon2id
    Column("role", String(20), nullable=False),
    Column("active", Boolean, nullable=False),
    Column("created", BigInteger, nullable=False),
)

sessions = Table(
    "sessions",
    METADATA,
    Column("key", String(64), primary_key=True),  # sha256 of what the cookie has
    Column("account", String(64), nullable=False, index=True),
    Column("csrf", String(64), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False, index=True),
)

tokens = Table(
    "tokens",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("account", String(64), nullable=False, index=True),
    Column("secret", String(64), nullable=False),  # sha256
    Column("scopes", Text, nullable=False),  # JSON
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("revoked", Boolean, nullable=False),
)

models = Table(
    "models",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("active", String(64), nullable=False),  # identity of the version that serves
    Column("source_sha256", String(64), nullable=False),  # of the file that was read last
)

versions = Table(
    "versions",
    METADATA,
    Column("model", String(64), primary_key=True),
    Column("version", String(64), primary_key=True),  # identity
    Column("file_sha256", String(64), nullable=False),
    Column("recipe", String(64), nullable=False),
    Column("added", BigInteger, nullable=False),
    Column("fitted", String(64), nullable=False),
    Column("author", String(200)),  # who made it here; none: it came as a file
    Column("note", Text),
)

audit = Table(
    "audit",
    METADATA,
    Column("sequence", SEQUENCE, primary_key=True, autoincrement=False),
    Column("time", BigInteger, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("action", String(40), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("details", Text, nullable=False),  # JSON
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

events = Table(
    "events",
    METADATA,
    Column("id", IDENTIFIER, primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("model", String(64)),
    Column("message", Text, nullable=False),
)
