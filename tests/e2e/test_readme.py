"""The tours of both READMEs, run as a reader would; at the same time, for each starts the program ten times."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
TOUR = re.compile(r"^<!-- tour -->\n```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KEPT = {"README.md": "gadgets_mr_lin", "README.zh-TW.md": "3C_林先生"}
"""The one author of the group `tech` about whom production says something."""
SQLITE3 = """#!{python}
import sqlite3, sys
for row in sqlite3.connect(sys.argv[-2]).execute(sys.argv[-1]):
    print(*row)
"""


def programs(folder: Path) -> str:
    """A PATH that begins with this program, and has the `sqlite3` of the tour where the machine has none."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if shutil.which("sqlite3") is None:
        shim = folder / "sqlite3"
        shim.write_text(SQLITE3.format(python=sys.executable))
        shim.chmod(0o755)
        path = f"{folder}{os.pathsep}{path}"
    return path


@pytest.fixture(scope="module")
def tours(tmp_path_factory):
    """README -> (its folder, the process that runs its tour)."""
    path = programs(tmp_path_factory.mktemp("bin"))
    started = {}
    for name in KEPT:
        folder = tmp_path_factory.mktemp("tour")
        steps = TOUR.findall((ROOT / name).read_text("utf-8"))
        environment = {**os.environ, "PATH": path, "AUDIENCE_HOME": str(folder / "home"), "COLUMNS": "120"}
        command = ["bash", "-euo", "pipefail", "-c", "\n".join(steps)]
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started[name] = (folder, process)
    yield started
    for _, process in started.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", KEPT)
def test_tour_of_the_readme_succeeds_and_shows_what_it_says(name, tours):
    folder, process = tours[name]
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert "6 rows in labels.csv" in told
    assert "1 rows read were outside the range of time" in told
    production = told.rsplit("production_tech\n", 1)[1]
    assert re.findall(r"^\w+_\w+(?= .*\d)", production, re.MULTILINE) == [KEPT[name]]
    assert len(pl.read_parquet(folder / "production.parquet")) == 6
