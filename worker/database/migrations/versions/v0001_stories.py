"""Stories: sessions, their turns and messages, and who waits for a turn."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the four tables."""
    op.create_table(
        "story",
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("session", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("system", sa.Text, nullable=False),
        sa.Column("system_tokens", sa.Integer, nullable=False),
        sa.Column("layout", sa.Text, nullable=False),
        sa.Column("kept_from", sa.Integer, nullable=False),
        sa.Column("turns", sa.Integer, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner", "session", name="story_pkey"),
    )
    op.create_table(
        "turn",
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("session", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("task", sa.Text),
        sa.Column("meta", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("owner", "session", "number", name="turn_pkey"),
        sa.ForeignKeyConstraint(
            ["owner", "session"], ["story.owner", "story.session"], name="turn_story_fkey", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("owner", "session", "task", name="turn_task_key"),
    )
    op.create_table(
        "message",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("session", sa.Text, nullable=False),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("date", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner", "session", "turn"],
            ["turn.owner", "turn.session", "turn.number"],
            name="message_turn_fkey",
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("owner", "session", "turn", "position", name="message_place_key"),
    )
    op.create_table(
        "waiting",
        sa.Column("place", _ID, primary_key=True, autoincrement=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("session", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("running", sa.Boolean, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.UniqueConstraint("owner", "session", "task", name="waiting_task_key"),
    )


def downgrade() -> None:
    """Drop the four tables."""
    op.drop_table("waiting")
    op.drop_table("message")
    op.drop_table("turn")
    op.drop_table("story")
