"""`audience doctor` on set-ups that are broken in one way each."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from audience.app.actors import LOCAL
from audience.app.doctor import examine
from audience.app.requests import PublicationRequest, PublishRequest, RunRequest, SourceRequest, TaskRequest
from audience.app.root import App
from audience.errors import BadInput, NotFound
from audience.labeling.plan import RunSpec, TaskSpec
from audience.models.rules.definition import RuleSet
from audience.settings import Settings
from audience.store.engines import open_engine
from audience.tables.base import SourceSpec
from audience.tables.findings import Finding, check_clock
from audience.tables.mysql.server import MysqlServer
from audience.tables.postgres.server import PostgresServer
from audience.tables.registry import check_target, open_target


def wrong(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.verdict != "ok"]


@pytest.fixture
def reader(mysql_url: str) -> Iterator[str]:
    """The URL of a user who may only read, with a password."""
    server, name = MysqlServer.at(mysql_url), f"audience_{uuid.uuid4().hex[:8]}"
    with server.session() as connection:
        cursor = connection.cursor()
        cursor.execute(f"CREATE USER {name}@'%' IDENTIFIED BY 's3cret'")
        cursor.execute(f"GRANT SELECT ON {server.database}.* TO {name}@'%'")
    yield f"mysql://{name}:s3cret@{server.host}:{server.port}/{server.database}"
    with server.session() as connection:
        connection.cursor().execute(f"DROP USER {name}@'%'")


def tables_of(url: str) -> list[str]:
    with MysqlServer.at(url).session() as connection:
        cursor = connection.cursor()
        cursor.execute("SHOW TABLES")
        return [name for (name,) in cursor.fetchall()]


def test_good_servers_are_found_good_and_left_as_they_were(mysql_url: str, postgres_url: str) -> None:
    found = [*check_target("m", mysql_url), *check_target("p", postgres_url)]
    assert wrong(found) == []
    assert {"m: LOAD DATA LOCAL", "m: rights", "p: rights", "p: encoding"} <= {finding.what for finding in found}
    assert tables_of(mysql_url) == []
    with PostgresServer.at(postgres_url).session() as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_missing_grants_are_named(reader: str, mysql_url: str) -> None:
    found = wrong(list(check_target("m", reader)))
    assert [finding.what for finding in found] == ["m: rights"]
    assert "no table can be created" in found[0].said
    assert found[0].advice.startswith("GRANT SELECT, INSERT")
    assert "s3cret" not in str(found)
    with MysqlServer.at(mysql_url).session() as connection:
        server = MysqlServer.at(reader)
        connection.cursor().execute(f"GRANT CREATE, INSERT, UPDATE, DROP ON {server.database}.* TO {server.user}@'%'")
    found = wrong(list(check_target("m", reader)))
    assert found[0].said == "missing: CREATE TEMPORARY TABLES, DELETE"
    assert tables_of(mysql_url) == []


@pytest.fixture
def nobody(mysql_url: str) -> Iterator[tuple[str, str]]:
    """The URL of a user without any right, and the user as the server knows it: of one network, with a quote."""
    server, name = MysqlServer.at(mysql_url), f"o'{uuid.uuid4().hex[:8]}"
    account = f"'{name.replace(chr(39), chr(92) + chr(39))}'@'127.0.0.%'"
    with server.session() as connection:
        connection.cursor().execute(f"CREATE USER {account}")
    yield f"mysql://{quote(name)}@{server.host}:{server.port}/{server.database}", account
    with server.session() as connection:
        connection.cursor().execute(f"DROP USER {account}")


def labelled_and_published(app: App, posts: Path, rules: Any, target: str) -> str:
    """What a user does who has what was granted; the state of the last operation."""
    model = app.models.add("m", rules("label,content\na,x\n"), LOCAL)[0]
    tasks = (TaskRequest(source=SourceRequest(location=str(posts))),)
    run = app.runs.create(RunRequest(tasks=tasks, models=(model,), target=target), LOCAL)["id"]
    app.operations.work_on(run)
    app.publications.add(PublicationRequest(name="p", target=target), LOCAL)
    for _ in range(2):
        begun = app.publications.publish("p", PublishRequest(runs=(run,)), LOCAL)
        app.operations.work_on(begun)
    begun = app.publications.roll_back("p", LOCAL)
    app.operations.work_on(begun)
    found = app.operations.get(begun)
    return str(found["error"] or found["state"])


POST = ("p1", "c", "a", "x", "2024-01-01")


def test_what_a_refused_account_is_to_be_granted_is_enough_for_runs_and_publications(
    nobody: tuple[str, str], mysql_url: str, app: App, table: Any, rules: Any
) -> None:
    url, account = nobody
    (finding,) = wrong(list(check_target("m", url)))
    assert finding.advice.startswith("GRANT SELECT, ")
    assert finding.advice.endswith(f" TO {account}")
    with pytest.raises(BadInput) as told:
        open_target(url).check()
    assert finding.advice in str(told.value)
    with MysqlServer.at(mysql_url).session() as connection:
        connection.cursor().execute(finding.advice)
    assert wrong(list(check_target("m", url))) == []
    assert labelled_and_published(app, table([POST]), rules, url) == "done"


def test_what_a_role_is_to_be_granted_is_enough_for_runs_and_publications(
    postgres_url: str, app: App, table: Any, rules: Any
) -> None:
    server, role = PostgresServer.at(postgres_url), f"Audience {uuid.uuid4().hex[:8]}"
    url = f"postgresql://{quote(role)}@{server.host}:{server.port}/{server.database}?schema=odd%20one"
    with server.session() as connection:
        connection.execute(f'CREATE ROLE "{role}" LOGIN')
        connection.execute('CREATE SCHEMA "odd one"')
        try:
            grant = f'GRANT USAGE, CREATE ON SCHEMA "odd one" TO "{role}"'
            assert [finding.advice for finding in wrong(list(check_target("p", url)))] == [grant]
            with pytest.raises(NotFound, match=grant):
                open_target(url).check()
            connection.execute(grant.replace(", CREATE", ""))
            with pytest.raises(BadInput, match=grant):
                open_target(url).check()
            connection.execute(grant)
            assert wrong(list(check_target("p", url))) == []
            assert labelled_and_published(app, table([POST]), rules, url) == "done"
        finally:
            connection.execute(f'DROP OWNED BY "{role}"')
            connection.execute(f'DROP ROLE "{role}"')


def test_a_role_that_may_make_no_temporary_table_is_told_before_the_run(postgres_url: str) -> None:
    server, role = PostgresServer.at(postgres_url), f"audience_{uuid.uuid4().hex[:8]}"
    url = f"postgresql://{role}@{server.host}:{server.port}/{server.database}"
    with server.session() as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        connection.execute(f"REVOKE TEMPORARY ON DATABASE {server.database} FROM PUBLIC")
        connection.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {role}")
        try:
            grant = f'GRANT TEMPORARY ON DATABASE "{server.database}" TO "{role}"'
            assert [finding.advice for finding in wrong(list(check_target("p", url)))] == [grant]
            with pytest.raises(BadInput, match=grant):
                open_target(url).check()
            connection.execute(grant)
            assert wrong(list(check_target("p", url))) == []
        finally:
            connection.execute(f"DROP OWNED BY {role}")
            connection.execute(f"DROP ROLE {role}")


def test_who_does_not_own_the_tables_writes_to_them_without_missing_indexes(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    server, role = PostgresServer.at(postgres_url), f"audience_{uuid.uuid4().hex[:8]}"
    open_target(postgres_url).prepare("0" * 32, 1, ["forum"])
    with server.session() as connection:
        connection.execute("DROP INDEX ix_production_forum__panel")
        connection.execute(f"CREATE ROLE {role} LOGIN")
        try:
            connection.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
            rights = "SELECT, INSERT, UPDATE, DELETE"
            connection.execute(f"GRANT {rights} ON ALL TABLES IN SCHEMA public TO {role}")
            url = f"postgresql://{role}@{server.host}:{server.port}/{server.database}"
            open_target(url).prepare("1" * 32, 1, ["forum"])
        finally:
            connection.execute(f"DROP OWNED BY {role}")
            connection.execute(f"DROP ROLE {role}")
    assert [record.getMessage() for record in caplog.records] == [
        "action=index_not_made table=production_forum column=panel"
    ]


def test_who_may_not_alter_tables_of_an_earlier_version_writes_to_them(
    mysql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    server, user = MysqlServer.at(mysql_url), f"audience_{uuid.uuid4().hex[:8]}"
    open_target(mysql_url).prepare("0" * 32, 1, ["forum"])
    with server.session() as connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE production_forum DROP KEY panel")
        cursor.execute(f"CREATE USER '{user}'@'%'")
        try:
            rights = "SELECT, INSERT, UPDATE, DELETE, CREATE, CREATE TEMPORARY TABLES"
            cursor.execute(f"GRANT {rights} ON `{server.database}`.* TO '{user}'@'%'")
            open_target(mysql_url.replace("root@", f"{user}@")).prepare("1" * 32, 1, ["forum"])
        finally:
            cursor.execute(f"DROP USER '{user}'@'%'")
    assert [record.getMessage() for record in caplog.records] == [
        "action=index_not_made table=production_forum column=panel"
    ]


def test_wrong_passwords_and_absent_servers_are_told(reader: str) -> None:
    for url, word in (
        (reader.replace("s3cret", "gu3ss"), "refuses"),
        ("mysql://root@127.0.0.1:1/db", "cannot be reached"),
    ):
        found = list(check_target("m", url))
        assert [(finding.what, finding.verdict) for finding in found] == [("m", "wrong")]
        assert word in found[0].said
        assert "gu3ss" not in str(found)


def test_tables_with_another_collation_are_told(mysql_url: str) -> None:
    open_target(mysql_url).prepare("0" * 32, 1, ["forum"])
    with MysqlServer.at(mysql_url).session() as connection:
        sql = "ALTER TABLE results_forum CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
        connection.cursor().execute(sql)
    found = wrong(list(check_target("m", mysql_url)))
    assert [finding.what for finding in found] == ["m: results_forum"]
    assert "utf8mb4_general_ci" in found[0].said


def test_a_clock_that_is_off_is_told() -> None:
    import time

    assert check_clock("m", time.time).verdict == "ok"
    late = check_clock("m", lambda: time.time() - 90)
    assert (late.verdict, late.said) == ("warning", "90.0 s behind this machine's")


def test_records_of_an_older_version_are_told(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    App(settings)
    with open_engine(settings.resolved_store_url).begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
    found = wrong(list(examine(settings)))
    assert [(finding.what, finding.advice) for finding in found] == [("our own records", "run `audience migrate`")]


def test_a_broker_that_is_away_and_blobs_that_cannot_be_kept_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = Settings(
        home=tmp_path / "home", blobs_url=str(tmp_path / "file"), broker_url="redis://:geheim@127.0.0.1:1/0"
    )
    found = wrong(list(examine(settings)))
    assert [(finding.what, finding.verdict) for finding in found] == [("blobs", "wrong"), ("broker", "wrong")]
    assert "geheim" not in str(found)


def test_a_broker_that_answers_is_told_with_its_queues(tmp_path: Path, redis_url: str) -> None:
    found = {finding.what: finding for finding in examine(Settings(home=tmp_path / "home", broker_url=redis_url))}
    assert found["broker"].verdict == "ok"
    assert "audience.default.label" in found["broker"].said


def test_sources_that_cannot_be_opened_are_told(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    found = wrong(list(examine(settings, [f"{tmp_path}/none.csv", "mysql://u:s3cret@127.0.0.1:1/db"])))
    assert [finding.verdict for finding in found] == ["wrong", "wrong"]
    assert "there is no file" in found[0].said
    assert "s3cret" not in str(found)


def test_a_target_without_temporary_tables_is_refused_before_anything_is_labelled(reader: str, mysql_url: str) -> None:
    server = MysqlServer.at(reader)
    with MysqlServer.at(mysql_url).session() as connection:
        rights = "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP"
        connection.cursor().execute(f"GRANT {rights} ON {server.database}.* TO {server.user}@'%'")
    with pytest.raises(BadInput, match=r"runs and publications need GRANT SELECT, .*CREATE TEMPORARY TABLES") as told:
        open_target(reader).check()
    assert "s3cret" not in str(told.value)
    with MysqlServer.at(mysql_url).session() as connection:
        connection.cursor().execute(f"GRANT CREATE TEMPORARY TABLES ON {server.database}.* TO {server.user}@'%'")
    open_target(reader).check()


def test_a_schema_that_is_not_there_is_told_to_whoever_would_write_to_it(postgres_url: str) -> None:
    url = f"{postgres_url}?schema=nope"
    assert 'CREATE SCHEMA "nope"' in wrong(list(check_target("p", url)))[0].advice
    with pytest.raises(NotFound, match="there is no schema nope"):
        open_target(url).check()


def test_a_lost_key_of_passwords_is_one_finding_among_the_others(tmp_path: Path, mysql_url: str, table: Any) -> None:
    """The password of a target, sealed with a key that is no more."""
    app = App(Settings(home=tmp_path / "home"))
    source = SourceSpec(url=str(table([("p1", "c", "x", "", "2024-01-01")])))
    secret = app.locations.secrets.seal("s3cret")
    rules = RuleSet.model_validate({"rules": [{"label": "L", "any": [{"keyword": "x"}]}]})
    spec = RunSpec(models=(app.models.save("m", rules, LOCAL),), target=mysql_url, target_secret=secret)
    app.store.runs.add(spec.model_dump(mode="json"), [TaskSpec(name="t", source=source).model_dump(mode="json")], LOCAL)
    (tmp_path / "home" / "secret.key").unlink()
    found = {finding.what: finding.verdict for finding in examine(Settings(home=tmp_path / "home"))}
    assert found["AUDIENCE_HOME"] == found["our own records"] == found["blobs"] == "ok"
    assert "wrong" in found.values()
