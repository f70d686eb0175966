import pickle
import sqlite3
import subprocess
import sys
from datetime import timedelta

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.operations import Operations
from alembic.script import ScriptDirectory

from audience import errors
from audience.errors import AudienceError, BadInput, Conflict, NotFound, Problem
from audience.store import schema
from audience.store.database import now, open_engine
from audience.store.migrate import LATEST, MIGRATIONS, migrate, revision_of
from audience.store.records import Once, Store
from audience.store.runs import move
from audience.store.secrets import Secrets, password_of
from audience.store.states import FINAL, JOB_MOVES, MOVES, OPEN_JOB, state_of_run


@pytest.fixture
def store(tmp_path):
    return Store(open_engine(f"sqlite:///{tmp_path / 'store.db'}"))


def test_migrations_make_the_tables_that_the_code_declares(store):
    made = sa.MetaData()
    made.reflect(store.database.engine)
    declared = {t.name: {c.name for c in t.columns} for t in schema.metadata.tables.values()}
    assert {t.name: {c.name for c in t.columns} for t in made.tables.values() if t.name in declared} == declared
    assert revision_of(store.database.engine) == LATEST


def test_the_newest_revision_is_the_one_the_code_names():
    scripts = ScriptDirectory(str(MIGRATIONS))
    assert scripts.get_current_head() == LATEST


def test_migrating_twice_changes_nothing(store):
    assert migrate(store.database.engine) == (LATEST, LATEST)


@pytest.mark.parametrize(("revision", "age"), [("0000", "older"), ("9999", "newer")])
def test_a_store_of_another_version_is_refused(store, revision, age):
    with store.database.writing() as connection:
        connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{revision}'"))
    with pytest.raises(Conflict, match=age):
        Store(store.database.engine)


def upgraded(engine: sa.Engine, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    with engine.execution_options(writes=True).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_an_old_store_is_migrated_with_what_is_in_it(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path / 'store.db'}")
    upgraded(engine, "0001")
    with engine.execution_options(writes=True).begin() as connection:
        created = "'ann', '2024-01-01T00:00:00.000+00:00'"
        connection.execute(
            sa.text(
                "INSERT INTO run (id, state, spec, created_by, created_at) "
                f"VALUES ('r1', 'running', '{{}}', {created}), ('r2', 'done', '{{}}', {created})"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO task (id, run_id, number, spec, state, created_by, created_at) "
                f"VALUES ('t1', 'r1', 0, '{{\"name\": \"a\"}}', 'running', {created})"
            )
        )
    with pytest.raises(Conflict, match="migrate"):
        Store(engine)
    assert migrate(engine) == ("0001", LATEST)
    store = Store(engine)
    assert {run["id"]: run["state"] for run in store.runs.page()} == {"r1": "aborted", "r2": "done"}
    store.runs.resume("r1", "ann")
    assert store.runs.show("r1")["tasks"][0]["fence"] == 2


def test_a_migration_that_is_cut_off_leaves_the_store_as_it_was(tmp_path, monkeypatch):
    engine = open_engine(f"sqlite:///{tmp_path / 'store.db'}")
    upgraded(engine, "0001")

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Operations, "create_index", fail)
    with pytest.raises(KeyboardInterrupt):
        migrate(engine)
    monkeypatch.undo()
    assert revision_of(engine) == "0001"
    assert "fence" not in {column["name"] for column in sa.inspect(engine).get_columns("task")}
    assert migrate(engine) == ("0001", LATEST)


def test_two_processes_that_migrate_at_once_both_find_it_done(tmp_path):
    path = tmp_path / "store.db"
    program = (
        "import sys; from audience.store.database import now, open_engine; from audience.store.migrate import migrate; "
        "migrate(open_engine(sys.argv[1]))"
    )
    command_line = [sys.executable, "-c", program, f"sqlite:///{path}"]
    both = [subprocess.Popen(command_line, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[1] for process in both] == ["", ""]
    assert revision_of(open_engine(f"sqlite:///{path}")) == LATEST


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
    run_id = store.runs.add({"target": "t"}, [{"name": "a"}], "ann")
    for state, fault in (("running", None), ("planned", r"is running; it cannot become planned"), ("done", None)):
        with store.database.writing() as connection:
            if fault is None:
                move(connection, schema.run, run_id, state, "ann")
            else:
                with pytest.raises(Conflict, match=fault) as error:
                    move(connection, schema.run, run_id, state, "ann")
                assert error.value.state == "running"
    assert store.runs.find(run_id)["finished_at"]


def test_every_state_can_be_left_or_is_the_last():
    assert set(MOVES) == {"deleting"} | {state for state, after in MOVES.items() if after}
    assert set(MOVES) >= FINAL
    assert {state for state, after in JOB_MOVES.items() if after} == OPEN_JOB


@pytest.mark.parametrize(
    ("tasks", "run"),
    [
        (["planned", "planned"], "planned"),
        (["planned", "done"], "running"),
        (["running", "producing"], "running"),
        (["producing", "done"], "producing"),
        (["aborting", "failed"], "aborting"),
        (["deleting", "aborting"], "deleting"),
        (["aborted", "failed", "done"], "aborted"),
        (["failed", "done"], "failed"),
        (["done", "done"], "done"),
    ],
)
def test_the_state_of_a_run_follows_from_those_of_its_tasks(tasks, run):
    assert state_of_run(tasks) == run


def test_a_create_that_is_repeated_is_remembered_with_its_answer(store):
    store.add_source("posts", {}, "ann", Once(lambda row: {"name": row["name"]}, "k1", "digest"))
    assert store.answered("k1", "digest") == {"name": "posts"}
    assert store.answered("k2", "digest") is None
    with pytest.raises(BadInput, match="another request"):
        store.answered("k1", "other")


def test_a_create_that_fails_is_not_remembered(store):
    store.add_source("posts", {}, "ann")
    with pytest.raises(Conflict):
        store.add_source("posts", {}, "ann", Once(lambda row: {}, "k1", "digest"))
    assert store.answered("k1", "digest") is None


def test_answers_are_kept_for_a_week(store, monkeypatch):
    monkeypatch.setattr("audience.store.records.now", lambda ago=timedelta(): now(ago + timedelta(days=8)))
    store.add_source("old", {}, "ann", Once(lambda row: {}, "k1", "digest"))
    monkeypatch.undo()
    store.add_source("new", {}, "ann", Once(lambda row: {}, "k2", "digest"))
    assert (store.answered("k1", "digest"), store.answered("k2", "digest")) == (None, {})


def test_ids_of_jobs_are_never_used_again(store):
    first = store.runs.add({}, [{"name": "a"}], "ann")
    last = store.jobs.read(first)[-1]["id"]
    store.runs.delete(first, "ann")
    deleting = store.jobs.read(first)[-1]["id"]
    store.runs.forget(first, "ann")
    second = store.runs.add({}, [{"name": "a"}], "ann")
    assert store.jobs.read(second)[0]["id"] > deleting > last


def test_saved_groups_are_replaced_and_removed(store):
    store.save_mapping("groups", "taiwan", {"channels": {"a": "b"}}, "ann")
    store.save_mapping("groups", "taiwan", {"channels": {}}, "bob")
    assert store.mapping("groups", "taiwan")["definition"] == {"channels": {}}
    with pytest.raises(NotFound, match="taiwan"):
        store.mapping("groups", "japan")
    with pytest.raises(NotFound, match="none"):
        store.mapping("conflict_groups", "taiwan")
    store.remove_mapping("groups", "taiwan", "bob")
    assert store.mappings("groups") == []


def test_runs_are_found_by_the_beginning_of_their_id(store):
    ids = [store.runs.add({"n": n}, [], "ann") for n in range(17)]
    assert store.runs.find("last")["id"] == ids[-1]
    assert store.runs.find(ids[0][:12])["id"] == ids[0]
    for unknown in ("zzz", "%", ""):
        with pytest.raises(NotFound):
            store.runs.find(unknown)
    shared = next(i[0] for n, i in enumerate(ids) if i[0] in {other[0] for other in ids[:n]})
    with pytest.raises(BadInput, match="several"):
        store.runs.find(shared)


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
    monkeypatch.setattr("audience.store.database.BUSY_TIMEOUT_S", 0)
    store = Store(open_engine(f"sqlite:///{tmp_path / 'store.db'}"))
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(AudienceError, match="locked"):
        store.add_source("posts", {}, "ann")
    other.close()
