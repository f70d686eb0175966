"""Steps of revisions, each of which makes what is not there yet. MariaDB and MySQL end a transaction at every one: a
revision that was cut off in its middle is done again from its beginning, and finds what it had made."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from audience.store.types import CHARSET


def create_table(name: str, *items: Any, **options: Any) -> None:
    """Indexes are made apart: a table that is there may lack them."""
    if not _inspector().has_table(name):
        op.create_table(name, *items, mysql_engine="InnoDB", mysql_default_charset=CHARSET, **options)


def add_column(table: str, column: sa.Column[Any]) -> None:
    if column.name not in {there["name"] for there in _inspector().get_columns(table)}:
        op.add_column(table, column)


def create_index(name: str, table: str, columns: list[str]) -> None:
    if name not in {index["name"] for index in _inspector().get_indexes(table)}:
        op.create_index(name, table, columns)


def _inspector() -> sa.Inspector:
    """A new one each time: they remember what they saw."""
    return sa.inspect(op.get_bind())
