"""What a command imports before it does anything: the reason why short ones answer at once."""

import subprocess
import sys
from pathlib import Path

import pytest

ENGINES = ("polars", "pyarrow", "numpy", "pandas", "connectorx", "pymysql", "psycopg", "regex")
EDGES = ("fastapi", "uvicorn", "celery", "alembic", "cryptography", "kombu", "httpx")
RECORDS = ("sqlalchemy",)


def imported_by(home: Path, *arguments: str) -> set[str]:
    """Returns the packages that a command has imported when it ends."""
    program = (
        f"import sys; sys.argv = ['audience', *{arguments!r}]\n"
        "from audience.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('imported', *{name.partition('.')[0] for name in sys.modules})"
    )
    environment = {"AUDIENCE_HOME": str(home), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=home, capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (("--help",), (*ENGINES, *EDGES, *RECORDS)),
        (("label", "--help"), (*ENGINES, *EDGES, *RECORDS)),
        (("run", "list"), (*ENGINES, *EDGES)),
        (("operation", "list"), (*ENGINES, *EDGES)),
    ],
)
def test_a_short_command_imports_no_engine(
    tmp_path: Path, arguments: tuple[str, ...], unwanted: tuple[str, ...]
) -> None:
    imported_by(tmp_path, "run", "list")  # makes the records, which takes what migrates them
    assert sorted(imported_by(tmp_path, *arguments) & set(unwanted)) == []
