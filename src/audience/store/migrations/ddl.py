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


def rename_table(name: str, new_name: str) -> None:
    if _inspector().has_table(name) and not _inspector().has_table(new_name):
        op.rename_table(name, new_name)


def drop_table(name: str) -> None:
    if _inspector().has_table(name):
        op.drop_table(name)


def has_column(table: str, name: str) -> bool:
    return _inspector().has_table(table) and name in {there["name"] for there in _inspector().get_columns(table)}


def rename_column(table: str, name: str, new_name: str) -> None:
    if has_column(table, name):
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {name} TO {new_name}")


def drop_column(table: str, name: str) -> None:
    if has_column(table, name):
        op.execute(f"ALTER TABLE {table} DROP COLUMN {name}")


def drop_index(name: str, table: str) -> None:
    if name in {index["name"] for index in _inspector().get_indexes(table)}:
        op.drop_index(name, table)


def _inspector() -> sa.Inspector:
    """A new one each time: they remember what they saw."""
    return sa.inspect(op.get_bind())
