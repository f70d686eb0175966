import pickle
import sqlite3

import pytest
import sqlalchemy as sa

from audience import errors
from audience.errors import AudienceError, BadInput, Conflict, NotFound, Problem
from audience.store import schema
from audience.store.migrate import latest_revision, migrate, revision_of
from audience.store.records import Store, open_engine
from audience.store.secrets import Secrets, password_of
from audience.store.states import FINAL, MOVES


@pytest.fixture
def store(tmp_path):
    return Store(open_engine(f"sqlite:///{tmp_path / 'store.db'}"))


def test_migrations_make_the_tables_that_the_code_declares(store):
    made = sa.MetaData()
    made.reflect(store.engine)
    declared = {t.name: {c.name for c in t.columns} for t in schema.metadata.tables.values()}
    assert {t.name: {c.name for c in t.columns} for t in made.tables.values() if t.name in declared} == declared
    assert revision_of(store.engine) == latest_revision()


def test_migrating_twice_changes_nothing(store):
    assert migrate(store.engine) == (latest_revision(), latest_revision())


def test_an_older_store_is_refused_until_it_is_migrated(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path / 'store.db'}")
    Store(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0000'"))
    with pytest.raises(Conflict, match="version"):
        Store(engine)


def test_a_file_that_is_no_store_is_refused(tmp_path):
    path = tmp_path / "store.db"
    path.write_bytes(b"something else, and long enough" * 100)
    with pytest.raises(AudienceError, match=r"store\.db"):
        Store(open_engine(f"sqlite:///{path}"))


def test_a_store_in_an_unknown_database_is_refused_without_its_password():
    with pytest.raises(BadInput) as error:
        open_engine("oracle://me:geheim@host/db")
    assert "geheim" not in str(error.value)


def test_a_source_is_saved_once_and_every_change_is_audited(store):
    store.add_source("posts", {"url": "posts.db"}, "ann")
    with pytest.raises(Conflict, match="posts"):
        store.add_source("posts", {"url": "other.db"}, "bob")
    store.remove_source("posts", "bob")
    with pytest.raises(NotFound, match="none yet"):
        store.source("posts")
    assert [(a["actor"], a["action"], a["subject"]) for a in store.audit()] == [
        ("ann", "source.add", "posts"),
        ("bob", "source.remove", "posts"),
    ]


def test_a_model_is_immutable_and_a_new_definition_is_a_new_version(store):
    assert store.add_model("m", "rules", "d1", {"rules": []}, [], "ann") == "m@1"
    assert store.add_model("m", "rules", "d2", {"rules": []}, [], "ann") == "m@2"
    assert store.add_model("m", "rules", "d1", {"rules": []}, [], "ann") == "m@1"
    assert store.model("m")["version"] == 2
    assert store.model("m@1")["digest"] == "d1"
    with pytest.raises(NotFound, match="1 to 2"):
        store.model("m@3")


def test_a_run_moves_only_as_the_table_of_moves_allows(store):
    run_id = store.add_run({"target": "t"}, [{"name": "a"}], "ann")
    store.move(schema.run, run_id, "running", "ann")
    with pytest.raises(Conflict, match=r"is running; it cannot become planned"):
        store.move(schema.run, run_id, "planned", "ann")
    store.move(schema.run, run_id, "done", "ann")
    assert store.run(run_id)["finished_at"]
    with pytest.raises(Conflict, match="is done"):
        store.move(schema.run, run_id, "running", "ann")


def test_every_state_can_be_left_or_is_the_last():
    assert set(MOVES) == {"deleting"} | {state for state, after in MOVES.items() if after}
    assert set(MOVES) >= FINAL


def test_runs_are_found_by_the_beginning_of_their_id(store):
    ids = [store.add_run({"n": n}, [], "ann") for n in range(17)]
    assert store.run("last")["id"] == ids[-1]
    assert store.run(ids[0][:12])["id"] == ids[0]
    for unknown in ("zzz", "%", ""):
        with pytest.raises(NotFound):
            store.run(unknown)
    shared = next(i[0] for n, i in enumerate(ids) if i[0] in {other[0] for other in ids[:n]})
    with pytest.raises(BadInput, match="several"):
        store.run(shared)


def test_the_password_of_a_url_is_sealed_and_never_stored_in_clear(tmp_path):
    secrets = Secrets(tmp_path)
    url, secret = secrets.separated("mysql://ann:ge%20heim@host:3306/db?x=1")
    assert url == "mysql://ann@host:3306/db?x=1"
    assert "heim" not in secret
    assert secrets.reveal(secret) == "ge heim"
    assert password_of(secrets.joined(url, secret)) == "ge heim"
    assert (tmp_path / "secret.key").stat().st_mode & 0o777 == 0o600
    assert Secrets(tmp_path).reveal(secret) == "ge heim"


def test_a_secret_may_be_a_reference_to_the_environment(tmp_path, monkeypatch):
    secrets = Secrets(tmp_path)
    monkeypatch.setenv("DB_PASSWORD", "geheim")
    assert secrets.joined("mysql://ann@h/db", "env:DB_PASSWORD") == "mysql://ann:geheim@h/db"
    monkeypatch.delenv("DB_PASSWORD")
    with pytest.raises(NotFound, match="DB_PASSWORD"):
        secrets.reveal("env:DB_PASSWORD")


def test_a_secret_of_another_key_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    secret = Secrets(tmp_path / "a").seal("geheim")
    with pytest.raises(NotFound, match="key"):
        Secrets(tmp_path / "b").reveal(secret)
    Secrets(tmp_path / "b").seal("other")
    with pytest.raises(BadInput, match="another installation"):
        Secrets(tmp_path / "b").reveal(secret)


def test_errors_survive_pickling():
    error = BadInput("three faults", (Problem("rules.csv:2", "empty"),))
    assert str(pickle.loads(pickle.dumps(error))) == "three faults\n  rules.csv:2: empty"
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, AudienceError):
            assert str(pickle.loads(pickle.dumps(kind("x")))) == "x"


def test_the_store_says_so_when_it_is_locked(tmp_path, monkeypatch):
    monkeypatch.setattr("audience.store.records.BUSY_TIMEOUT_S", 0)
    store = Store(open_engine(f"sqlite:///{tmp_path / 'store.db'}"))
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(AudienceError, match="locked"):
        store.add_source("posts", {}, "ann")
    other.close()
