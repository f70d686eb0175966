"""Brings the store's tables to this version's layout. A new store is made at once; an older one is changed only by
`migrate`."""

from pathlib import Path

import sqlalchemy as sa

from audience.errors import Conflict
from audience.store.engines import mapped_errors, migrating

MIGRATIONS = Path(__file__).parent / "migrations"
LATEST = "0007"
"""The newest of `migrations/versions`; a constant, so that opening a store needs no Alembic."""


def revision_of(engine: sa.Engine) -> str | None:
    """Returns the revision of the store; None for a new one."""
    with mapped_errors(engine), engine.connect() as connection:
        return _revision(connection)


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def migrate(engine: sa.Engine) -> tuple[str | None, str]:
    """Migrates the store; returns (revision before, revision now). Of two at once, the second waits and finds it done.
    One that is killed leaves the store as it was; MariaDB and MySQL keep the steps that were done, and the next
    migration goes on from there."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    with mapped_errors(engine), migrating(engine) as connection:
        before = _revision(connection)
        _refuse_newer(before)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before, LATEST


def ensure_current(engine: sa.Engine) -> None:
    """Makes a new store. Refuses one of another version: its owner decides when to migrate."""
    present = revision_of(engine)
    if present is not None and present < LATEST:
        present = _revision_after_migrations(engine)
    if present is None:
        migrate(engine)
    elif present != LATEST:
        _refuse_newer(present)
        raise Conflict(f"the records are of an older version ({present}, now {LATEST}): run `audience migrate`")


def _revision_after_migrations(engine: sa.Engine) -> str | None:
    """Returns the revision once a migration that is under way has ended."""
    with migrating(engine) as connection:
        return _revision(connection)


def _refuse_newer(present: str | None) -> None:
    if present is not None and present > LATEST:
        raise Conflict(f"the records are of a newer version ({present}) than this program ({LATEST}): update Audience")
