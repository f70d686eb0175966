"""What settings mean together: the names of earlier systems, and what is derived from them."""

from pathlib import Path

import pytest

from audience.errors import BadInput
from audience.settings import Settings, read_settings

DOTENV = """
INPUT_HOST=db.example
INPUT_PORT=3307
INPUT_USER=reader
INPUT_PASSWORD=p@ss/word
INPUT_SCHEMA=wh_tiktok
OUTPUT_HOST=out.example
OUTPUT_SCHEMA=audience_result
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_earlier_systems_env_file_names_source_and_target(folder: Path) -> None:
    (folder / ".env").write_text(DOTENV)
    settings = Settings()
    assert settings.resolved_source_url == "mysql://reader:p%40ss%2Fword@db.example:3307/wh_tiktok"
    assert settings.resolved_target_url == "mysql://root@out.example:3306/audience_result"
    assert "p@ss" not in repr(settings)


def test_an_earlier_systems_env_file_names_where_it_dumps_to(folder: Path) -> None:
    (folder / ".env").write_text(DOTENV)
    assert Settings().resolved_publication_url is None
    (folder / ".env").write_text(DOTENV + "DUMP_TO_SCHEMA=audience_dump\n")
    assert Settings().resolved_publication_url == "mysql://root@out.example:3306/audience_dump"
    (folder / ".env").write_text(DOTENV + "DUMP_TO_SCHEMA=audience_dump\nDUMP_HOST=dump.example\nDUMP_USER=dumper\n")
    assert Settings().resolved_publication_url == "mysql://dumper@dump.example:3306/audience_dump"


def test_our_own_names_win(folder: Path) -> None:
    (folder / ".env").write_text(DOTENV + "AUDIENCE_SOURCE_URL=mysql://other/db\n")
    assert Settings().resolved_source_url == "mysql://other/db"


def test_nothing_is_named_without_them() -> None:
    assert (Settings().resolved_source_url, Settings().resolved_target_url) == (None, None)


def test_production_wants_the_address_to_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().listening_host(None) == "127.0.0.1"
    monkeypatch.setenv("ENV", "production")
    with pytest.raises(BadInput, match="--host or AUDIENCE_HOST"):
        Settings().listening_host(None)
    assert Settings().listening_host("0.0.0.0") == "0.0.0.0"
    monkeypatch.setenv("AUDIENCE_HOST", "10.0.0.1")
    assert Settings().listening_host(None) == "10.0.0.1"


def test_a_wrong_value_is_told_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INPUT_HOST", "db.example")
    monkeypatch.setenv("INPUT_PORT", "many")
    with pytest.raises(BadInput) as caught:
        read_settings()
    assert "INPUT_PORT" in str(caught.value)
