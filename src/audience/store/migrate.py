"""Brings the store's tables to this version's layout. A new store is made at once; an older one only when asked."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from audience.errors import Conflict

MIGRATIONS = Path(__file__).parent / "migrations"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


def latest_revision() -> str:
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def revision_of(engine: sa.Engine) -> str | None:
    """The revision of the store; None for a new one."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def migrate(engine: sa.Engine) -> tuple[str | None, str]:
    """(revision before, revision now). One transaction, so that two at once do no harm on SQLite."""
    config = _config()
    before = revision_of(engine)
    with engine.begin() as connection:
        attributes: dict[str, Any] = config.attributes
        attributes["connection"] = connection
        command.upgrade(config, "head")
    return before, latest_revision()


def ensure_current(engine: sa.Engine) -> None:
    """Makes a new store. Refuses one of another version: migrating is its owner's decision."""
    present, latest = revision_of(engine), latest_revision()
    if present is None:
        migrate(engine)
    elif present != latest:
        known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
        if present in known:
            raise Conflict(f"the records are of an older version ({present}, now {latest}): run `audience migrate`")
        raise Conflict(f"the records are of a newer version ({present}) than this program ({latest}): update Audience")
