"""Brings the store's tables to this version's layout. A new store is made at once; an older one only when asked."""

from pathlib import Path

import sqlalchemy as sa

from audience.errors import Conflict
from audience.store.database import WRITES

MIGRATIONS = Path(__file__).parent / "migrations"
LATEST = "0002"
"""The newest of `migrations/versions`; here, so that opening a store needs no Alembic."""


def revision_of(engine: sa.Engine) -> str | None:
    """The revision of the store; None for a new one."""
    with engine.connect() as connection:
        return _revision(connection)


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def migrate(engine: sa.Engine) -> tuple[str | None, str]:
    """(revision before, revision now). One transaction under the write lock: of two at once, the second waits and
    finds it done; one that is killed leaves the store as it was."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    with engine.execution_options(**WRITES).begin() as connection:
        before = _revision(connection)
        _refuse_newer(before)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before, LATEST


def ensure_current(engine: sa.Engine) -> None:
    """Makes a new store. Refuses one of another version: migrating is its owner's decision."""
    present = revision_of(engine)
    if present is None:
        migrate(engine)
    elif present != LATEST:
        _refuse_newer(present)
        raise Conflict(f"the records are of an older version ({present}, now {LATEST}): run `audience migrate`")


def _refuse_newer(present: str | None) -> None:
    if present is not None and present > LATEST:
        raise Conflict(f"the records are of a newer version ({present}) than this program ({LATEST}): update Audience")
