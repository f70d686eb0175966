"""URLs of servers: what they mean, and that no piece of a password leaves one that cannot be read."""

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from audience.app.doctor import examine
from audience.app.root import App
from audience.databases import mysql, postgres, urls
from audience.errors import AudienceError, BadInput
from audience.jobs.celery_app import check_broker
from audience.settings import Settings
from audience.store.blobs import Blobs
from audience.store.engines import open_engine, same_place
from audience.store.secrets import Secrets
from audience.tables.base import SourceSpec
from audience.tables.registry import check_target, open_publisher, open_source, open_target

SECRET, END = "zyxkvuqj", "qwvxbjzk"  # no four letters of them are in any word
ODD_PASSWORDS = [
    *(f"{SECRET}{character}{END}" for character in "@/?#[]: \t\n\r\0\x7f\u00a0\u2028\u200b\ud800"),
    *(f"{SECRET}{character}{END}" for character in "＠／？＃：［］℀℁℅℆﹟﹕﹖﹫"),
    f"{SECRET}@{END}/{END}?{END}#{END}",
    f"{SECRET}/{END}@{END}",
    f"1234/{SECRET}",
    f"1234?{SECRET}",
    f"1234#{SECRET}",
    f"12?{SECRET}=@{END}",
    f"{SECRET}%00{END}",
    f"{SECRET}%FF{END}",
    f"[{SECRET}]",
    f"[::1]{SECRET}",
    f"@{SECRET}",
    f"{SECRET}@",
    f"/{SECRET}",
    f"{SECRET}/",
]
P = f"{SECRET}{END}"
ODD_FORMS = [
    f" {{}}://u:{P}@h/db",
    f"{{}}://u:{P}@h/db ",
    f"\t{{}}://u:{P}@h/db",
    f"{{}}://u:{P}@h/db\n",
    f"{{}}://u:{P}@h\n/db",
    f"\ufeff{{}}://u:{P}@h/db",
    f"{{}}:/u:{P}@h/db",
    f"{{}}:u:{P}@h/db",
    f"{{}}:u:{P}@h",
    f"{{}}//u:{P}@h/db",
    f"{{}}:///u:{P}@h/db",
    f"{{}}：//u:{P}@h/db",
    f"{{}}:／／u:{P}@h/db",
    f"u:{P}@h/db",
    f"//u:{P}@h/db",
    f"://u:{P}@h/db",
    f"{{}}://u:{P}＠h/db",
    f"{{}}://u:{P}%40h/db",
    f"{{}}://u:{P}/db",
    f"{{}}://u:1?{P}",
    f"{{}}://u:{P}@/db",
    f"{{}}://u:{P}@:1/db",
    f"{{}}://:{P}@",
    f"{{}}://u:{P}@h:port/db",
    f"{{}}://u:{P}@h:{P}/db",
    f"{{}}://u:{P}@h:-1/db",
    f"{{}}://u:{P}@h:99999/db",
    f"{{}}://u:{P}@h:１/db",
    f"{{}}://u:{P}@::1/db",
    f"{{}}://u:{P}@[::1/db",
    f"{{}}://u:{P}@::1]/db",
    f"{{}}://u:{P}@[{P}]/db",
    f"{{}}://u:{P}@h/db#x",
    f"{{}}://u@h/db?password={P}",
    f"{{}}://u:{P}@h/db?a@b",
]
SCHEMES = ("mysql", "postgresql", "MySQL", "POSTGRES", "mariadb")


def odd(scheme: str) -> list[str]:
    forms = [form.format(scheme) for form in ODD_FORMS]
    return [*(f"{scheme}://u:{password}@h.invalid/db" for password in ODD_PASSWORDS if ":" not in password), *forms]


def pieces(of: str = SECRET + END) -> set[str]:
    return {of[n : n + 4] for n in range(len(of) - 3)}


def everything_said(attempt: Callable[[str], object], url: str) -> str:
    """Returns what a log or a reply may get: of the error that is expected, or of what the doctor finds."""
    said = lines = ""
    try:
        found = attempt(url)
        assert isinstance(found, list), (ascii(url), found)
        said = str(found[-1].said)
        lines = repr(found)
    except AudienceError as error:
        said = str(error)
        lines = "".join(traceback.format_exception(error)) + repr(error) + repr(error.args)
    assert "%XX" in said or "no path or URL" in said, (ascii(url), said)
    return said + lines


def check_silent(url: str, said: str) -> None:
    leaked = {piece for piece in pieces() if piece in said}
    assert not leaked, (ascii(url), leaked)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_url_that_cannot_be_read_is_refused_without_a_piece_of_its_password(scheme: str, here: Path) -> None:
    secrets = Secrets(here)
    locations = App(Settings(home=here / "home")).locations
    for url in odd(scheme):
        for attempt in (
            lambda url: open_source(SourceSpec(url=url)),
            lambda url: open_source(SourceSpec(url=f"{scheme}://u@h/db"), url),
            open_target,
            lambda url: open_target(f"{scheme}://u@h/db", url=url),
            lambda url: open_publisher(url, "p", "name"),
            lambda url: list(check_target("shown", url)),
            secrets.separated,
            lambda url: secrets.joined(url, secrets.seal("x")),
            open_engine,
            lambda url: locations.confined(url, "source"),
            check_broker,
            urls.parse,
            mysql.Address.parse,
            postgres.Address.parse,
        ):
            check_silent(url, everything_said(attempt, url))
    assert [path.name for path in here.iterdir()] in (["home"], ["home", "secret.key"], ["secret.key", "home"])


@pytest.mark.parametrize("url", [*odd("mysql"), *odd("s3")])
def test_what_is_shown_of_a_url_that_cannot_be_read_has_nothing_of_its_password(url: str) -> None:
    check_silent(url, urls.displayed(url) + Blobs(url).shown + str(same_place(url, url)))


def test_the_doctor_looks_at_the_other_targets_after_one_that_cannot_be_read(here: Path) -> None:
    targets = [f"mysql://u:{SECRET}＠{END}@h/db", f"mysql:/u:{P}@h/db", "labels/"]
    found = list(examine(Settings(home=here / "home", store_url=None), [f"mysql:u:{P}@h/db"], targets))
    check_silent("doctor", repr(found))
    assert [finding.verdict for finding in found][-4:] == ["wrong", "wrong", "wrong", "ok"]


def test_settings_show_no_password() -> None:
    store, blobs = f"mysql://u:{P}@h/db", f"s3://u:{P}@bucket/blobs?region=x"
    settings = Settings(store_url=store, blobs_url=blobs, broker_url=SecretStr(f"redis://u:{P}@h"), source_url=store)
    check_silent("settings", repr(settings))
    assert (settings.resolved_store_url, settings.resolved_blobs_url) == (store, blobs)
    assert Blobs(blobs).shown == "s3://bucket/blobs"


def test_a_url_is_read_as_it_is_meant() -> None:
    found = urls.parse("MySQL://ann%40x:p%40ss%2F%3A%E5%AF%86:word@DB_1.example:3307/a%20b?ssl=true&ssl_ca=%2Fa+b")
    assert (found.scheme, found.host, found.port, found.database) == ("mysql", "db_1.example", 3307, "a b")
    assert (found.user, found.password) == ("ann@x", "p@ss/:密:word")
    assert found.options == {"ssl": "true", "ssl_ca": "/a b"}
    assert found.shown == "db_1.example:3307/a b"
    assert "p@ss" not in repr(found)


@pytest.mark.parametrize(
    ("url", "without"),
    [
        ("mysql://ann:geheim@H:1/db?ssl=true", "mysql://ann@H:1/db?ssl=true"),
        ("mysql://:geheim@h/db", "mysql://h/db"),
        ("mysql://ann@h", "mysql://ann@h"),
        ("mysql://ann%40x:g@[::1]:1/db", "mysql://ann%40x@[::1]:1/db"),
        ("oracle://ann:geheim@h/x", "oracle://ann@h/x"),
        ("sqlite:////data/a:b@c.db", "sqlite:////data/a:b@c.db"),
        ("file:///data/a b@c/", "file:///data/a b@c/"),
        ("/data/a:b@c/d.csv", "/data/a:b@c/d.csv"),
        ("mysql/posts.csv", "mysql/posts.csv"),
        ("posts of today #1?.db", "posts of today #1?.db"),
    ],
)
def test_a_password_leaves_a_url_and_comes_back_and_nothing_else_changes(url: str, without: str) -> None:
    assert urls.without_password(url) == without == urls.displayed(url)
    password = urls.password_of(url)
    if password is None:
        assert url == without
    else:
        assert urls.with_password(without, password) == url


def test_ipv6_is_in_brackets() -> None:
    server = mysql.Address.parse("mysql://u:p@[::1]/db")
    assert (server.host, server.shown) == ("::1", "[::1]:3306/db")
    assert server.url == "mysql://u:p@[::1]:3306/db"
    assert postgres.Address.parse("postgres://[fe80::1]:1/db").shown == "[fe80::1]:1/db"


def test_the_wrong_option_is_named() -> None:
    with pytest.raises(BadInput, match="unknown option 'colour'; known: ssl, ssl_ca"):
        mysql.Address.parse("mysql://u@h/db?colour=blue")
    with pytest.raises(BadInput, match="unknown option 'colour'; known: sslmode"):
        postgres.Address.parse("postgresql://u@h/db?colour=blue")


def test_several_brokers_are_each_looked_at() -> None:
    check_broker("amqp://u:p@one:5672//;amqp://u:p@two:5672//")
    with pytest.raises(BadInput, match="AUDIENCE_BROKER_URL"):
        check_broker(f"amqp://u:p@one//;amqp://u:{P}＠two//")
