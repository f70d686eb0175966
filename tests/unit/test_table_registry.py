"""Which kind a path or URL means, and what is said of those that mean none."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from audience.errors import BadInput, NotFound
from audience.tables import kind as declarations
from audience.tables.base import SourceSpec
from audience.tables.registry import check_target, open_publisher, open_source, open_target


def database(path: Path) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE posts (id, content)")
    return path


def test_database_is_known_by_its_ending_or_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database(tmp_path / "posts.db")
    database(tmp_path / "posts.data")
    urls = (
        "posts.db",
        "posts.data",
        "sqlite:///posts.db",
        f"sqlite:///{tmp_path}/posts.data",
        f"file://{tmp_path}/posts.db",
    )
    assert {type(open_source(SourceSpec(url=url))).__name__ for url in urls} == {"SqliteSource"}


def test_files_are_known_by_ending_folder_or_glob(tmp_path: Path) -> None:
    (tmp_path / "a b.csv").write_text("content\n")
    urls = (f"{tmp_path}/a b.csv", str(tmp_path), f"{tmp_path}/*.csv", f"file://{tmp_path}/a%20b.csv")
    assert {type(open_source(SourceSpec(url=url))).__name__ for url in urls} == {"FilesSource"}


def test_targets_are_databases_or_folders(tmp_path: Path) -> None:
    (tmp_path / "there.v1").mkdir()
    for name, kind in (("a.db", "SqliteTarget"), ("a.sqlite3", "SqliteTarget"), ("there.v1", "FolderTarget")):
        assert type(open_target(f"{tmp_path}/{name}")).__name__ == kind
    for name in ("new", "new.v2/", "new.db/"):
        assert type(open_target(f"{tmp_path}/{name}")).__name__ == "FolderTarget"
    assert type(open_target(f"sqlite:///{tmp_path}/any.name")).__name__ == "SqliteTarget"
    with pytest.raises(BadInput, match=r"\.db, \.sqlite.*or a folder"):
        open_target(f"{tmp_path}/labels.xlsx")


@pytest.mark.parametrize("url", ["oracle://u:s3cret@host/db", "mysql+pymysql://u:s3cret@h/db", "mongodb:/u:s3cret@h"])
def test_unknown_scheme_is_named_and_no_secret_is_shown(url: str) -> None:
    scheme = url.partition(":")[0]
    for attempt in (lambda: open_source(SourceSpec(url=url)), lambda: open_target(url)):
        with pytest.raises(BadInput) as caught:
            attempt()
        assert scheme in str(caught.value)
        assert "sqlite:///" in str(caught.value)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(("url", "driver"), [("mysql://u@h/db", "pymysql"), ("postgresql://u@h/db", "psycopg")])
def test_a_server_without_its_driver_says_what_to_install(
    url: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declarations, "find_spec", lambda name: None if name == driver else True)
    for attempt in (lambda: open_source(SourceSpec(url=url)), lambda: open_target(url), lambda: check_target(url, url)):
        with pytest.raises(BadInput, match=rf"{driver}.*pip install 'audience\["):
            attempt()


@pytest.mark.parametrize("url", ["sqlite://posts.db", "sqlite:///", "file:posts", "file://posts.csv", "", "a\0b"])
def test_url_without_a_path_is_refused(url: str) -> None:
    with pytest.raises((BadInput, NotFound)):
        open_source(SourceSpec(url=url))
    if not url.startswith("file:posts"):
        with pytest.raises(BadInput):
            open_target(url)


def test_publications_are_kept_in_databases_or_folders(tmp_path: Path) -> None:
    (tmp_path / "there.v1").mkdir()
    for url, kind in (("a.db", "Sqlite"), ("there.v1", "Folder"), ("new", "Folder"), ("new.db/", "Folder")):
        assert type(open_publisher(f"{tmp_path}/{url}", "0" * 32, "moods")).__name__ == f"{kind}Publisher"
    assert type(open_publisher(f"sqlite:///{tmp_path}/any.name", "0" * 32, "moods")).__name__ == "SqlitePublisher"
    with pytest.raises(BadInput, match=r"\.db, \.sqlite.*or a folder"):
        open_publisher(f"{tmp_path}/labels.xlsx", "0" * 32, "moods")
    with pytest.raises(BadInput, match="not in a folder that may be used"):
        open_publisher(f"{tmp_path}/a.db", "0" * 32, "moods", within=[str(tmp_path / "there.v1")])


def test_publication_in_a_server_shows_no_secret() -> None:
    publisher = open_publisher("mysql://u@host/db", "0" * 32, "moods", url="mysql://u:s3cret@host/db")
    assert publisher.where("forum") == "mysql://u@host/db, table published_forum"
    assert "s3cret" not in str(vars(publisher))
    with pytest.raises(BadInput, match="names a database"):
        open_publisher("mysql://u@host", "0" * 32, "moods")
