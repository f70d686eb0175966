"""The database's own clock as SQL: all processes that share the records share it, whatever their own clocks show."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles


class clock_s(sa.sql.expression.FunctionElement[float]):  # noqa: N801
    """The present time, in seconds since 1970."""

    type = sa.Float()
    inherit_cache = True


@compiles(clock_s, "sqlite")
def _of_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(clock_s, "postgresql")
def _of_postgresql(*_: Any, **__: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


@compiles(clock_s, "mysql")
@compiles(clock_s, "mariadb")
def _of_mysql(*_: Any, **__: Any) -> str:
    return "CAST(UNIX_TIMESTAMP(SYSDATE(6)) AS DOUBLE)"  # NOW() would stand still within a statement
