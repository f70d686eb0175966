import json
import pickle
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from audience import errors
from audience.app.root import App
from audience.databases.urls import password_of
from audience.errors import AudienceError, BadInput, Conflict, Elsewhere, NotFound, Problem, Transient
from audience.settings import Settings
from audience.store import schema
from audience.store.blobs import Blobs
from audience.store.database import Database, canonical, digest_of, now
from audience.store.engines import migrating, open_engine, same_place
from audience.store.idempotency import IdempotencyKey
from audience.store.migrate import LATEST, MIGRATIONS, migrate, revision_of
from audience.store.models import NewVersion
from audience.store.operations import move
from audience.store.records import Store
from audience.store.references import ModelReference
from audience.store.runs import remove_run
from audience.store.secrets import Secrets
from audience.store.states import FINAL, JOB_MOVES, MOVES, OPEN_JOB, state_of_run

NO_BLOBS = Blobs("/nowhere")


@pytest.fixture
def engine(store_url):
    engine = open_engine(store_url)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine, tmp_path):
    return Store(engine, Blobs(str(tmp_path / "blobs")))


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
        Store(store.database.engine, NO_BLOBS)


def upgraded(engine: sa.Engine, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    with migrating(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_an_old_store_is_migrated_with_what_is_in_it(engine):
    upgraded(engine, "0001")
    with engine.begin() as connection:
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
        Store(engine, NO_BLOBS)
    assert migrate(engine) == ("0001", LATEST)
    store = Store(engine, NO_BLOBS)
    assert {run["id"]: run["state"] for run in store.runs.page()} == {"r1": "aborted", "r2": "done"}
    store.runs.resume("r1", "ann")
    assert store.runs.show("r1")["tasks"][0]["fence"] == 2


class Died(Exception):
    """Of a process, at some statement."""


def cut_off(engine: sa.Engine, at: int) -> bool:
    """Migrates up to the n-th statement that changes something; whether it got that far."""
    n = 0

    def count(_: object, __: object, statement: str, *___: object) -> None:
        nonlocal n
        n += statement.lstrip().upper().startswith(("CREATE", "ALTER", "DROP", "INSERT", "UPDATE"))
        if n == at:
            raise Died

    sa.event.listen(engine, "before_cursor_execute", count)
    try:
        migrate(engine)
    except Died:
        return True
    finally:
        sa.event.remove(engine, "before_cursor_execute", count)
    return False


def layout(engine: sa.Engine) -> dict[str, object]:
    inspector = sa.inspect(engine)
    return {
        name: (
            [(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in inspector.get_columns(name)],
            sorted((i["name"], tuple(i["column_names"])) for i in inspector.get_indexes(name)),
            sorted(tuple(key["constrained_columns"]) for key in inspector.get_foreign_keys(name)),
        )
        for name in sorted(inspector.get_table_names())
    }


def test_a_migration_that_dies_at_any_statement_is_finished_by_the_next_one(engine):
    at = 1
    while cut_off(engine, at):
        at += 1
        if engine.dialect.name != "mysql":
            assert revision_of(engine) is None
    assert at > 25 or engine.dialect.name == "mysql"
    mended = layout(engine)
    with engine.begin() as connection:
        emptied = sa.MetaData()
        emptied.reflect(connection)
        emptied.drop_all(connection)
    migrate(engine)
    assert mended == layout(engine)
    assert Store(engine, NO_BLOBS).runs.page() == []


def test_a_new_store_whose_making_died_is_made_by_whoever_comes_next(engine):
    assert cut_off(engine, 1)
    assert Store(engine, NO_BLOBS).sources.all() == []


MIGRATE = (
    "import sys; from audience.store.engines import open_engine; from audience.store.migrate import ensure_current; "
    "ensure_current(open_engine(sys.argv[1]))"
)


def test_processes_that_make_a_store_at_once_all_find_it_made(engine, store_url):
    makers = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", MIGRATE, store_url], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate()[1] for process in makers] == ["", "", ""]
    assert revision_of(engine) == LATEST


def test_a_file_that_is_no_store_is_refused(tmp_path):
    path = tmp_path / "store.db"
    path.write_bytes(b"something else, and long enough" * 100)
    with pytest.raises(AudienceError, match=r"store\.db"):
        Store(open_engine(f"sqlite:///{path}"), NO_BLOBS)


def test_a_store_in_an_unknown_database_is_refused_without_its_password():
    with pytest.raises(BadInput) as error:
        open_engine("oracle://me:geheim@host/db")
    assert "geheim" not in str(error.value)


def test_a_source_is_saved_once_and_every_change_is_audited(store):
    store.sources.add("posts", {"url": "posts.db"}, "ann")
    with pytest.raises(Conflict, match="posts"):
        store.sources.add("posts", {"url": "other.db"}, "bob")
    store.sources.remove("posts", "bob")
    with pytest.raises(NotFound, match="none yet"):
        store.sources.get("posts")
    assert [(a["actor"], a["action"], a["subject"]) for a in store.audit()] == [
        ("ann", "source.add", "posts"),
        ("bob", "source.remove", "posts"),
    ]


def test_a_model_is_immutable_and_a_new_definition_is_a_new_version(store):
    assert store.models.add("m", NewVersion("rules", "d1", {"rules": []}), "ann") == "m@1"
    assert store.models.add("m", NewVersion("rules", "d2", {"rules": []}), "ann") == "m@2"
    assert store.models.add("m", NewVersion("rules", "d1", {"rules": []}), "ann") == "m@1"
    assert store.models.get("m")["version"] == 2
    assert store.models.get("m@1")["digest"] == "d1"
    with pytest.raises(NotFound, match="1 to 2"):
        store.models.get("m@3")


def add_run(store: Store, names: str = "a") -> str:
    """A run of these tasks; its id."""
    return str(store.runs.add({"target": "t"}, [{"name": name} for name in names], "ann")["id"])


def test_a_model_goes_or_a_run_of_it_comes_but_never_both(store):
    """Whoever looked the model up before it was deleted adds the run after that, or before."""
    for n in range(10):
        model = store.models.add(f"m{n}", NewVersion("rules", "d1", {"rules": []}), "ann")
        with ThreadPoolExecutor(2) as pool:
            deleted = pool.submit(store.models.delete, ModelReference.parse(model), "ann")
            added = pool.submit(store.runs.add, {"models": [model]}, [], "bob")
            faults = [done.exception() for done in (deleted, added)]
        refused = [type(fault) for fault in faults if fault is not None]
        assert refused in ([Conflict], [NotFound]), faults
        assert len(store.runs.page(100)) == int(faults[1] is None)
        for run in store.runs.page(100):
            store.runs.delete(run["id"], "ann")
            with store.database.writing() as connection:
                remove_run(connection, run["id"], "ann")


def test_a_run_of_a_model_that_is_gone_is_not_written_down(store):
    with pytest.raises(NotFound, match="there is no model 'm'"):
        store.runs.add({"models": ["m@1"]}, [{"name": "a"}], "ann")
    assert store.runs.page() == []


def test_a_run_moves_only_as_the_table_of_moves_allows(store):
    run_id = add_run(store)
    for state, fault in (("running", None), ("planned", r"is running; it cannot become planned"), ("done", None)):
        with store.database.writing() as connection:
            if fault is None:
                move(connection, run_id, state, "ann")
            else:
                with pytest.raises(Conflict, match=fault) as error:
                    move(connection, run_id, state, "ann")
                assert error.value.state == "running"
    assert store.operations.find(run_id, "run")["finished_at"]


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
    key = IdempotencyKey("k1", "digest")
    made = store.sources.add("posts", {}, "ann", key)
    assert made["name"] == "posts"
    assert store.answers.made(key) == made
    assert store.sources.add("posts", {}, "ann", key) == made
    assert [row["action"] for row in store.audit()] == ["source.add"]
    assert store.answers.made(IdempotencyKey("k2", "digest")) is None
    with pytest.raises(BadInput, match="another request"):
        store.answers.made(IdempotencyKey("k1", "other"))


def test_a_create_that_fails_is_not_remembered(store):
    store.sources.add("posts", {}, "ann")
    with pytest.raises(Conflict):
        store.sources.add("posts", {}, "ann", IdempotencyKey("k1", "digest"))
    assert store.answers.made(IdempotencyKey("k1", "digest")) is None


def test_answers_are_kept_for_a_week(store, monkeypatch):
    monkeypatch.setattr("audience.store.idempotency.now", lambda ago=timedelta(): now(ago + timedelta(days=8)))
    store.sources.add("old", {}, "ann", IdempotencyKey("k1", "digest"))
    monkeypatch.undo()
    store.sources.add("new", {}, "ann", IdempotencyKey("k2", "digest"))
    assert store.answers.sweep() == 1
    assert [store.answers.made(IdempotencyKey(key, "digest")) is not None for key in ("k1", "k2")] == [False, True]


def test_ids_of_jobs_are_never_used_again(store):
    first = add_run(store)
    last = store.operations.jobs(first)[-1]["id"]
    store.runs.delete(first, "ann")
    deleting = store.operations.jobs(first)[-1]["id"]
    with store.database.writing() as connection:
        remove_run(connection, first, "ann")
    second = add_run(store)
    assert store.operations.jobs(second)[0]["id"] > deleting > last


def test_saved_groups_are_replaced_and_removed(store):
    store.mappings.save("groups", "taiwan", {"channels": {"a": "b"}}, "ann")
    store.mappings.save("groups", "taiwan", {"channels": {}}, "bob")
    assert store.mappings.get("groups", "taiwan")["definition"] == {"channels": {}}
    with pytest.raises(NotFound, match="taiwan"):
        store.mappings.get("groups", "japan")
    with pytest.raises(NotFound, match="none"):
        store.mappings.get("conflict_groups", "taiwan")
    store.mappings.remove("groups", "taiwan", "bob")
    assert store.mappings.all("groups") == []


def test_runs_are_found_by_the_beginning_of_their_id(store):
    ids = [add_run(store, "") for _ in range(17)]
    assert store.operations.find("last", "run")["id"] == ids[-1]
    assert store.operations.find(ids[0][:12], "run")["id"] == ids[0]
    for unknown in ("zzz", "%", ""):
        with pytest.raises(NotFound):
            store.operations.find(unknown, "run")
    shared = next(i[0] for n, i in enumerate(ids) if i[0] in {other[0] for other in ids[:n]})
    with pytest.raises(BadInput, match="several"):
        store.operations.find(shared, "run")


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
    with pytest.raises(Elsewhere, match="DB_PASSWORD"):
        secrets.reveal("env:DB_PASSWORD")


def test_a_secret_of_another_key_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    secret = Secrets(tmp_path / "a").seal("geheim")
    with pytest.raises(Elsewhere, match="key"):
        Secrets(tmp_path / "b").reveal(secret)
    Secrets(tmp_path / "b").seal("other")
    with pytest.raises(Elsewhere, match="AUDIENCE_SECRET_KEY"):
        Secrets(tmp_path / "b").reveal(secret)


def test_errors_survive_pickling():
    error = BadInput("three faults", (Problem("rules.csv:2", "empty"),))
    assert str(pickle.loads(pickle.dumps(error))) == "three faults\n  rules.csv:2: empty"
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, AudienceError):
            assert str(pickle.loads(pickle.dumps(kind("x")))) == "x"


# definitions that are too large for a row


def keywords(n: int) -> dict[str, object]:
    return {"rules": [{"label": "a", "any": [{"keyword": f"字{i}"}]} for i in range(n)]}


def test_a_definition_of_100_000_keywords_is_kept_and_comes_back(store):
    large = keywords(100_000)
    for version in (1, 1):
        assert store.models.add("m", NewVersion("rules", digest_of(large), large), "ann") == f"m@{version}"
    assert store.models.get("m")["definition"] == large
    assert [record["definition"] for record in store.models.all()] == [None]
    assert store.models.add("m", NewVersion("rules", "d2", keywords(3)), "ann") == "m@2"
    assert store.models.get("m")["definition"] == keywords(3)
    with store.database.reading() as connection:
        nulls = sa.select(schema.model.c.version).where(sa.cast(schema.model.c.definition, sa.Text).is_(None))
        assert connection.execute(nulls).scalars().all() == [1]


def test_a_definition_whose_blob_is_elsewhere_says_where_it_was_looked_for(store):
    large = keywords(10_000)
    store.models.add("m", NewVersion("rules", digest_of(large), large), "ann")
    other = Store(store.database.engine, NO_BLOBS)
    with pytest.raises(Elsewhere, match=r"/nowhere.*AUDIENCE_BLOBS_URL"):
        other.models.get("m")
    assert len(other.models.all()) == 1


# models: what they are told by, aliases, and rows from before


def test_what_a_version_is_told_by_comes_back(store):
    told = {"inputs": ("title",), "labels": ("a", "b"), "summary": {"n": 1}, "lineage": {"seed": 5}, "notes": "why"}
    store.models.add("m", NewVersion("linear", "d1", {"c": 1}, ("careful",), protocol=3, **told), "ann")
    found = store.models.find("m")
    assert {name: found[name] for name in told} == {**told, "inputs": ["title"], "labels": ["a", "b"]}
    assert (found["kind"], found["protocol"], found["warnings"], found["artifacts"]) == ("linear", 3, ["careful"], {})


def test_the_same_digest_of_another_kind_is_another_version(store):
    assert store.models.add("m", NewVersion("rules", "d1", {}), "ann") == "m@1"
    assert store.models.add("m", NewVersion("linear", "d1", {}), "ann") == "m@2"


def test_models_are_paged_by_name_and_number_without_definitions(store):
    for name in ("B", "a", "ab", "ä", "😀"):
        for digest in ("d1", "d2"):
            store.models.add(name, NewVersion("rules", digest, {"rules": []}), "ann")
    found, after = [], None
    while page := store.models.page(3, after=after):
        found += page
        after = (page[-1]["name"], page[-1]["version"])
    names = [(record["name"], record["version"]) for record in found]
    assert names == [(name, n) for name in sorted(("B", "a", "ab", "ä", "😀")) for n in (1, 2)]
    assert "definition" not in found[0]
    assert {record["name"] for record in store.models.page(beginning="a")} == {"a", "ab"}


def test_an_alias_leads_to_one_version_at_any_moment(store):
    for digest in ("d1", "d2"):
        store.models.add("m", NewVersion("rules", digest, {}), "ann")
    moments = []
    for version in (1, 2, None, 1):
        if version is None:
            store.models.aliases.remove("m", "live", "bob")
        else:
            store.models.aliases.set("m", "live", version, "ann")
        moments.append(datetime.now(UTC))
    led = [[row["version"] for row in store.models.aliases.of("m", at)] for at in moments]
    assert led == [[1], [2], [], [1]]
    assert store.models.find("m@live")["version"] == 1
    assert len(store.models.aliases.history("m")) == 4


def old_models(engine, blobs):
    """Two models as version 0005 kept them: a small one with two versions, and one whose definition is a blob."""
    upgraded(engine, "0005")
    small = {"rules": [{"label": "a", "any": [{"keyword": "媽"}], "fields": ["title"]}, {"label": "b", "any": []}]}
    large = {**keywords(10_000), "fields": ["author"], "case": "exact"}
    assert blobs.put(canonical(large)) == digest_of(large)
    with engine.begin() as connection:
        for name, version, definition, kept in (
            ("small", 1, small, small),
            ("small", 2, keywords(1), keywords(1)),
            ("large", 1, large, None),
        ):
            row = {"name": name, "version": version, "digest": digest_of(definition), "kept": kept and json.dumps(kept)}
            connection.execute(
                sa.text(
                    "INSERT INTO model (name, version, kind, digest, definition, warnings, created_by, created_at) "
                    "VALUES (:name, :version, 'rules', :digest, :kept, '[]', 'ann', '2024-01-01')"
                ),
                row,
            )
    return small, large


def test_models_of_an_old_store_are_migrated_with_all_that_they_are(engine, tmp_path):
    blobs = Blobs(str(tmp_path / "blobs"))
    small, large = old_models(engine, blobs)
    assert migrate(engine) == ("0005", LATEST)
    models = Store(engine, blobs).models
    first = models.get("small@1")
    assert (first["definition"], first["inputs"], first["labels"]) == (small, ["title", "content"], ["a", "b"])
    assert (first["summary"], first["protocol"], first["artifacts"], first["lineage"]) == ({"n_rules": 2}, 1, {}, None)
    blob = models.get("large")
    assert (blob["definition"], blob["artifacts"]) == (large, {"definition": digest_of(large)})
    assert models.find("large")["definition"] is None
    for name, definition, version in (("small", small, 1), ("small", keywords(1), 2), ("large", large, 1)):
        new = NewVersion("rules", digest_of(definition), definition)
        assert models.add(name, new, "ann") == f"{name}@{version}"
    assert models.add("small", NewVersion("rules", "other", {}), "ann") == "small@3"


def test_a_migration_of_models_that_dies_at_any_statement_is_finished_by_the_next_one(engine, tmp_path):
    small, _ = old_models(engine, Blobs(str(tmp_path / "blobs")))
    at = 1
    while cut_off(engine, at):
        at += 1
    assert at > 10 or engine.dialect.name == "mysql"
    models = Store(engine, NO_BLOBS).models
    assert [(r["name"], r["version"], r["inputs"], r["summary"]) for r in models.page()] == [
        ("large", 1, None, None),
        ("small", 1, ["title", "content"], {"n_rules": 2}),
        ("small", 2, ["content"], {"n_rules": 1}),
    ]
    assert models.get("small@1")["definition"] == small
    with models.database.reading() as connection:
        assert dict(connection.execute(sa.select(schema.model_number)).all()) == {"large": 1, "small": 2}


def test_a_large_model_of_an_old_store_tells_what_it_is_from_its_blob(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path / 'audience.db'}")
    old_models(engine, Blobs(str(tmp_path / "blobs")))
    migrate(engine)
    engine.dispose()
    models = App(Settings(home=tmp_path)).models
    assert (models.fields("large"), models.labels("large")) == (("author",), ("a",))
    assert models.get("large")["summary"] == {"n_rules": 10_000, "fields": ["author"], "case": "exact"}
    assert models.try_out("large", {"": "字77"}).labels == ({"label": "a", "score": 1.0},)
    assert models.load("large").model.inputs.names == ["author"]


# what the databases must have in common


NAMES = ("a", "a ", "A", "á", "Z", "_", "媽", "😀", "\ufb01")


def test_names_are_equal_and_in_order_by_code_point(store):
    for name in NAMES:
        store.sources.add(name, {"name": name}, "ann")
    assert [record["name"] for record in store.sources.all()] == sorted(NAMES)
    assert [store.sources.get(name)["spec"]["name"] for name in NAMES] == list(NAMES)
    for name in NAMES:
        store.sources.remove(name, "ann")
    assert store.sources.all() == []


def test_documents_come_back_as_they_were(store):
    deep = {"z": 1, "a": [None, True, 0.1, 2**53, "\0\ud800\\ '\"\n媽😀"], "": {}, "long": "x" * 200_000}
    store.sources.add("deep", deep, "ann")
    found = store.sources.get("deep")["spec"]
    assert found == deep
    assert list(found) == list(deep)


def test_numbers_are_as_exact_as_python_has_them(store):
    run = add_run(store)
    worker = store.workers.add("w", 1)
    job = store.jobs.take(worker)
    store.jobs.put_back(job, 0.1, "for a reason \0 with a NUL, and of " + "any length " * 10_000)
    assert store.jobs.get(job["id"])["delay_s"] == 0.1
    with store.database.writing() as connection:
        connection.execute(sa.update(schema.job).values(kind="partition", due_at=0.1 + 2**31))
    assert store.jobs.get(job["id"])["due_at"] == 0.1 + 2**31
    store.workers.beat(store.jobs.claim(job["id"], worker)["worker"], {job["id"]: (2**40, 2**41)})
    read = (store.runs.rows_read(), store.runs.show(run)["tasks"][0]["progress"]["read"])
    progress = store.operations.get(run)["progress"]
    assert (read, progress["done"], progress["total"]) == ((2**40, 2**40), 2**40, 2**41)
    assert {type(number) for number in (*read, progress["done"], progress["total"])} == {int}


def test_a_job_that_is_due_later_is_not_taken_before_not_even_by_another_process(store):
    """Times are the database's own: a restart forgets nothing."""
    store.operations.add("sweep", "ann", delay_s=1.5)
    began = time.monotonic()
    worker = store.workers.add("w", 1)
    assert store.jobs.take(worker) is None
    restarted = Store(open_engine(store.database.engine.url.render_as_string(False)), NO_BLOBS)
    assert restarted.jobs.counts() == {("sweep", "delayed"): 1}
    while (job := restarted.jobs.take(worker)) is None:
        time.sleep(0.02)
    assert job["kind"] == "sweep"
    assert 1.4 < time.monotonic() - began < 10
    restarted.database.close()


def test_a_job_is_not_kept_waiting_by_a_clock_that_was_turned_back(store):
    """It was to wait for an hour, and lies a day ahead: the clock stands a day earlier than when it was put back."""
    add_run(store)
    worker = store.workers.add("w", 1)
    job = store.jobs.take(worker)
    store.jobs.put_back(job, 3600.0, "away")
    assert store.jobs.take(worker) is None
    with store.database.writing() as connection:
        connection.execute(sa.update(schema.job).values(due_at=schema.job.c.due_at + 86_400))
    assert store.jobs.take(worker)["id"] == job["id"]


def test_who_reads_sees_one_moment_and_waits_for_nobody(store):
    store.sources.add("first", {}, "ann")
    names = sa.select(schema.source.c.name).order_by(schema.source.c.name)
    with store.database.reading() as connection:
        assert connection.execute(names).scalars().all() == ["first"]
        store.sources.add("second", {}, "ann")
        assert connection.execute(names).scalars().all() == ["first"]
    assert [record["name"] for record in store.sources.all()] == ["first", "second"]


def test_what_a_writer_has_read_is_still_true_when_it_writes(store):
    """Threads with databases of their own, as processes have them, count up one number."""
    store.sources.add("n", {"n": 0}, "ann")
    source = schema.source
    databases = [Database(open_engine(store.database.engine.url.render_as_string(False))) for _ in range(4)]

    def count(database: Database) -> None:
        for _ in range(25):
            with database.writing() as connection:
                n = connection.execute(sa.select(source.c.spec)).scalar()["n"]
                connection.execute(sa.update(source).values(spec={"n": n + 1}))
        database.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(count, databases))
    assert store.sources.get("n")["spec"] == {"n": 100}


def test_jobs_are_taken_once_by_many(store):
    run = add_run(store, "abcdefgh" * 5)
    stores = [Store(open_engine(store.database.engine.url.render_as_string(False)), NO_BLOBS) for _ in range(4)]

    def take(mine: Store) -> list[int]:
        worker, taken = mine.workers.add("w", 1), []
        while job := mine.jobs.take(worker):
            taken.append(job["id"])
        mine.database.close()
        return taken

    with ThreadPoolExecutor(4) as threads:
        taken = list(threads.map(take, stores))
    assert sorted(job for jobs in taken for job in jobs) == [job["id"] for job in store.operations.jobs(run)]


# servers


@pytest.fixture(params=["mariadb", "postgresql"])
def server_url(request):
    return request.getfixturevalue("mysql_url" if request.param == "mariadb" else "postgres_url")


@pytest.fixture
def on_server(server_url):
    store = Store(open_engine(server_url), NO_BLOBS)
    yield store
    store.database.close()


def at(url: str, **changes: object) -> sa.Engine:
    return open_engine(sa.make_url(url).set(**changes).render_as_string(False))


def test_a_wrong_password_says_so_and_is_not_shown(mysql_url):
    with pytest.raises(BadInput, match="AUDIENCE_STORE_URL") as error:
        Store(at(mysql_url, username="nobody", password="geheim"), NO_BLOBS)
    assert "geheim" not in f"{error.value!r} {error.value.__cause__!r}"


def test_a_user_that_is_not_known_is_told_so(postgres_url):
    with pytest.raises(BadInput, match="AUDIENCE_STORE_URL") as error:
        Store(at(postgres_url, username="nobody", password="geheim"), NO_BLOBS)
    assert "geheim" not in f"{error.value!r} {error.value.__cause__!r}"


def test_a_schema_that_is_missing_is_not_found(server_url):
    with pytest.raises(NotFound, match="audience_test_none"):
        Store(at(server_url, database="audience_test_none"), NO_BLOBS)


def test_a_server_that_is_away_may_come_back(server_url):
    with pytest.raises(Transient, match=r"127\.0\.0\.1:1/"):
        Store(at(server_url, port=1), NO_BLOBS)


@pytest.mark.parametrize("url", ["mysql://u:geheim@/x", "postgresql://u:geheim@h", "mysql://u:geheim@h:port/x"])
def test_a_url_that_is_incomplete_is_refused_without_its_password(url):
    with pytest.raises(BadInput, match="AUDIENCE_STORE_URL") as error:
        open_engine(url)
    assert "geheim" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "other", "same"),
    [
        ("mysql://ann:geheim@db/x", "mariadb://DB:3306/x?ssl=true", True),
        ("mysql://localhost/x", "mysql://127.0.0.1/x", True),
        ("mysql://db/x", "mysql://db/y", False),
        ("mysql://db/x", "postgresql://db/x", False),
        ("postgres://db/x", "postgresql://db:5432/x?schema=public", True),
        ("postgresql://db/x", "postgresql://db/x?schema=results", False),
        ("sqlite:///x.db", "sqlite:///x.db", False),
        ("mysql://db/x", "labels/", False),
    ],
)
def test_schemas_of_servers_are_told_apart(url, other, same):
    assert same_place(url, other) == same


def test_an_option_that_is_not_known_is_named(server_url):
    with pytest.raises(BadInput, match="'colour'; known"):
        open_engine(f"{server_url}?colour=blue")


def test_records_in_a_schema_of_postgresql_other_than_public(postgres_url):
    engine = open_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(sa.text('CREATE SCHEMA "our records"'))
    engine.dispose()
    store = Store(open_engine(f"{postgres_url}?schema=our%20records"), NO_BLOBS)
    store.sources.add("posts", {}, "ann")
    assert sa.inspect(store.database.engine).get_table_names("public") == []
    store.database.close()


def killed(store: Store) -> int:
    """Ends every other connection to this database, from the server's side; how many."""
    with store.database.engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            return len(connection.execute(sa.text(f"SELECT pg_terminate_backend(pid) {others}")).all())
        others = "FROM information_schema.processlist WHERE db = database() AND id <> connection_id()"
        found = connection.execute(sa.text(f"SELECT id {others}")).scalars().all()
        for number in found:
            connection.execute(sa.text(f"KILL {number}"))
        return len(found)


def test_a_connection_that_was_cut_is_replaced_unnoticed(on_server, server_url):
    assert on_server.sources.all() == []
    other = Store(open_engine(server_url), NO_BLOBS)
    assert killed(other) >= 1
    on_server.sources.add("posts", {}, "ann")
    other.database.close()


def test_a_connection_that_is_cut_in_a_transaction_leaves_nothing_and_may_be_tried_again(on_server, server_url):
    other = Store(open_engine(server_url), NO_BLOBS)

    def cut() -> None:
        with on_server.database.writing() as connection:
            connection.execute(sa.insert(schema.source).values(name="x", spec={}, created_by="ann", created_at=now()))
            assert killed(other) >= 1
            connection.execute(sa.select(schema.source))

    with pytest.raises(Transient):
        cut()
    other.sources.add("posts", {}, "ann")
    assert [record["name"] for record in on_server.sources.all()] == ["posts"]
    other.database.close()


def test_a_process_asleep_with_the_turn_loses_it(server_url, monkeypatch):
    monkeypatch.setattr("audience.store.engines.IDLE_S", 1)
    sleeper, other = Store(open_engine(server_url), NO_BLOBS), Store(open_engine(server_url), NO_BLOBS)

    def sleep() -> None:
        with sleeper.database.writing() as connection:
            other.sources.add("posts", {}, "ann")
            connection.execute(sa.delete(schema.source))

    with pytest.raises(Transient):
        sleep()
    assert [record["name"] for record in other.sources.all()] == ["posts"]
    for store in (sleeper, other):
        store.database.close()


def test_who_waits_too_long_for_its_turn_may_try_again(server_url, monkeypatch):
    monkeypatch.setattr("audience.store.engines.BUSY_TIMEOUT_S", 1)
    holder, other = Store(open_engine(server_url), NO_BLOBS), Store(open_engine(server_url), NO_BLOBS)
    with holder.database.writing(), pytest.raises(Transient):
        other.sources.add("posts", {}, "ann")
    other.sources.add("posts", {}, "ann")
    for store in (holder, other):
        store.database.close()


def test_tables_are_utf8mb4_whatever_the_server_prefers(mysql_url):
    engine = open_engine(mysql_url)
    with engine.begin() as connection:
        connection.execute(sa.text(f"ALTER DATABASE {engine.url.database} CHARACTER SET latin1"))
    store = Store(engine, NO_BLOBS)
    store.sources.add("😀", {"a": "😀"}, "媽")
    assert store.sources.get("😀")["created_by"] == "媽"
    store.database.close()


def test_the_store_says_so_when_it_is_locked(tmp_path, monkeypatch):
    monkeypatch.setattr("audience.store.engines.BUSY_TIMEOUT_S", 0)
    store = Store(open_engine(f"sqlite:///{tmp_path / 'store.db'}"), NO_BLOBS)
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(AudienceError, match="locked"):
        store.sources.add("posts", {}, "ann")
    other.close()
