"""Types of columns that mean the same in every database. The revisions use them too, so they may not change."""

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator, TypeEngine

MYSQL = ("mysql", "mariadb")
CHARSET = "utf8mb4"


def _storable(value: str | None, dialect: sa.Dialect) -> str | None:
    """Replaces NUL characters for PostgreSQL, whose texts cannot hold them."""
    return value.replace("\0", "\ufffd") if value is not None and dialect.name == "postgresql" else value


class Exact(TypeDecorator[str]):
    """A short text, compared and ordered by code point: `a`, `a ` and `A` are three."""

    impl = sa.String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        if dialect.name in MYSQL:
            from sqlalchemy.dialects import mysql

            exact = "utf8mb4_nopad_bin" if getattr(dialect, "is_mariadb", False) else "utf8mb4_0900_bin"
            return dialect.type_descriptor(mysql.VARCHAR(self.length, charset=CHARSET, collation=exact))
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.String(self.length, collation="C"))
        return dialect.type_descriptor(sa.String(self.length))

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return _storable(value, dialect)


class Prose(TypeDecorator[str]):
    """A text of any length."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(_long_text() if dialect.name in MYSQL else sa.Text())

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return _storable(value, dialect)


class LongJson(TypeDecorator[Any]):
    """JSON as a text: MySQL's own type would reorder the keys."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(_long_text())

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str:
        return json.dumps(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        return None if value is None else json.loads(value)


def _long_text() -> TypeEngine[Any]:
    from sqlalchemy.dialects import mysql

    return mysql.LONGTEXT(charset=CHARSET, collation="utf8mb4_bin")


DOCUMENT = sa.JSON().with_variant(LongJson(), *MYSQL)
"""JSON; None is JSON's null."""
REAL = sa.Float().with_variant(sa.Double(), *MYSQL)
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
