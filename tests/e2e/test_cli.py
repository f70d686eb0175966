"""The program as a user runs it: what it prints, what it returns, and that bad input never ends in a traceback."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from faults import wait_until

from audience.cli.main import main

RULES = "label,content,match_type\n女性,媽,partially\n男性,爸,partially\n"
POSTS = [("p1", "c1", "小媽", "buy now", "2024-01-01"), ("p2", "c1", "老爸", "=1+1", "2024-01-02")]


@pytest.fixture
def audience(tmp_path):
    """Runs the program in a folder of its own; (status, output, errors)."""

    def run(*arguments, status=0):
        environment = {**os.environ, "AUDIENCE_HOME": str(tmp_path / "home"), "NO_COLOR": "1"}
        command = [sys.executable, "-m", "audience", *map(str, arguments)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr if status else done.stdout

    return run


@pytest.fixture
def posts(table, rules):
    rules(RULES)
    return table(POSTS)


def test_a_newcomer_labels_looks_and_exports(audience, posts, tmp_path):
    found = audience("source", "test", "posts.db")
    assert "rows        2" in found
    told = audience("label", "posts.db", "--rules", "author=gender.csv", "--target", "labels.db")
    assert "2 rows" in told
    assert "labels.db, table results_all" in told
    assert "小媽" in audience("sample")
    assert "2 rows" in audience("export", "--to", "out.csv")
    assert (tmp_path / "out.csv").read_text(encoding="utf-8-sig").startswith("id,task_id,source_author,panel")
    assert "done" in audience("run", "list")
    assert "gender@1" in audience("run", "show", "last")
    assert "100.0 %" in audience("production")
    assert "deleted run" in audience("run", "delete", "last")
    with contextlib.closing(sqlite3.connect(tmp_path / "labels.db")) as db, db:
        assert db.execute("SELECT count(*) FROM results_all").fetchone() == (0,)


def test_ctrl_c_says_that_it_stops_before_it_has_and_the_run_can_be_resumed(audience, table, rules, tmp_path):
    rules(RULES)
    table([(f"p{n}", "c1", "小媽", "buy now", "2024-01-01") for n in range(60_000)])
    environment = {**os.environ, "AUDIENCE_HOME": str(tmp_path / "home"), "AUDIENCE_PARTITION_ROWS": "500"}
    command = [sys.executable, "-m", "audience", "label", "posts.db", "--rules", "author=gender.csv"]
    with subprocess.Popen(
        [*command, "--target", "labels.db"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        wait_until(lambda: (tmp_path / "labels.db").exists(), "the target is made")
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert told.index("stopping; what is finished is kept") < told.index("aborted")
    run = json.loads(audience("run", "resume", "last", "--json"))
    assert (run["state"], run["tasks"][0]["report"]["read"]) == ("done", 60_000)


def test_mistyped_conflict_groups_are_told(posts, tmp_path, monkeypatch, capsys):
    panels = '{"names": {"男性": "male", "那性": "male"}, "conflicts": {"gender": ["mle", "女性"]}}'
    (tmp_path / "panels.json").write_text(panels)
    monkeypatch.setenv("AUDIENCE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    label = ["label", "posts.db", "--rules", "author=gender.csv", "--target", "labels.db"]
    monkeypatch.setattr(sys, "argv", ["audience", *label, "--panels", "panels.json"])
    with contextlib.suppress(SystemExit):
        main()
    told = capsys.readouterr().err
    assert "no label of these models is written as /mle" in told
    assert "no model of this run gives the label 那性, which `names` renames" in told
    assert "/女性" not in told
    monkeypatch.setattr(sys, "argv", ["audience", "run", "show", "last"])
    with contextlib.suppress(SystemExit):
        main()
    assert "no label of these models is written as /mle" in capsys.readouterr().err


def test_a_new_publication_whose_target_cannot_be_used_is_not_kept(audience, posts):
    audience("label", "posts.db", "--rules", "author=gender.csv", "--target", "labels.db")
    told = audience("publish", "board", "--run", "last", "--target", "mysql://u@127.0.0.1:1/x", "--yes", status=1)
    assert "cannot be reached" in told
    assert json.loads(audience("publication", "list", "--json")) == []
    audience("publish", "board", "--run", "last", "--target", "board.db", "--yes")
    assert json.loads(audience("publication", "show", "board", "--json"))["version"] == 1


def test_saved_sources_and_models_are_used_by_name(audience, posts):
    audience("source", "add", "posts", "posts.db", "--role", "content=content")
    assert "posts.db" in audience("source", "list")
    assert "gender@1" in audience("model", "add", "gender", "gender.csv", "--field", "author")
    assert "gender@1" in audience("model", "list")
    assert "媽" in audience("model", "show", "gender")
    run = json.loads(audience("label", "posts", "--model", "gender", "--target", "labels", "--json"))
    assert run["state"] == "done"
    assert "forgot" in audience("source", "remove", "posts")


def test_a_model_can_be_tried_on_a_text(audience, posts):
    audience("model", "add", "gender", "gender.csv")
    assert "女性" in audience("model", "try", "gender", "我媽媽")
    assert "no rule hits" in audience("model", "try", "gender", "nothing")
    tried = json.loads(audience("model", "try", "gender", "我媽媽", "--json"))
    assert [(hit["text"], hit["start"]) for hit in tried["hits"]] == [("媽", 1), ("媽", 2)]


def test_a_changed_rules_file_is_a_new_version_and_an_unchanged_one_is_not(audience, posts, rules):
    assert "gender@1" in audience("model", "add", "gender", "gender.csv")
    assert "gender@1" in audience("model", "add", "gender", "gender.csv")
    rules(RULES + "女性,姐,end\n")
    assert "gender@2" in audience("model", "add", "gender", "gender.csv")


def test_aliases_lead_to_versions_and_models_are_renamed_and_deleted(audience, posts, rules):
    audience("model", "add", "gender", "gender.csv", "--notes", "from the [team]")
    rules(RULES + "女性,姐,end\n")
    audience("model", "add", "gender", "gender.csv")
    audience("model", "alias", "gender", "live", "2")
    assert "gender@1" in audience("model", "alias", "gender", "live", "1")
    shown = audience("model", "show", "gender@live")
    for told in ("gender@1  rules  rules 2", "from the [team]", "live -> gender@1", "fields   content", "媽"):
        assert told in shown
    history = json.loads(audience("model", "alias", "gender", "--json"))
    assert [(row["alias"], row["version"]) for row in history] == [("live", 2), ("live", 1)]
    assert json.loads(audience("model", "alias", "gender", "--at", "2020-01-01", "--json")) == []
    assert "not a time" in audience("model", "alias", "gender", "--at", "noon", status=1)
    run = json.loads(audience("label", "posts.db", "--model", "gender@live", "--target", "labels.db", "--json"))
    assert run["spec"]["models"] == ["gender@1"]
    assert run["id"][:12] in audience("model", "delete", "gender@1", status=1)
    assert "gender@2" in audience("model", "delete", "gender@2")
    audience("run", "delete", "last")
    assert "sex" in audience("model", "rename", "gender", "sex")
    assert "live -> sex@1" in audience("model", "show", "sex")
    audience("model", "alias", "sex", "live", "--remove")
    assert "aliases" not in audience("model", "show", "sex")
    assert [m["version"] for m in json.loads(audience("model", "list", "se", "--json"))] == [1]
    audience("model", "delete", "sex")
    assert json.loads(audience("model", "list", "--json")) == []


def test_csv_exports_are_safe_for_spreadsheets(audience, posts, rules, tmp_path):
    rules("label,content\n=cmd,1+1\n", "formula.csv")
    audience("label", "posts.db", "--rules", "formula.csv", "--target", "labels.db")
    audience("export", "--to", "out.csv")
    assert ",'=1+1," in (tmp_path / "out.csv").read_text(encoding="utf-8-sig")
    audience("export", "--to", "out.jsonl", "--production")
    assert json.loads((tmp_path / "out.jsonl").read_text())["match_content"] == "=1+1"


LABEL = ("label", "posts.db", "--rules", "author=gender.csv", "--target", "labels.db")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("label", "gone.db", *LABEL[2:]), "there is no"),
        (("label", "gender.csv", *LABEL[2:]), "author"),
        (("label", "noise.db", *LABEL[2:]), "not a SQLite database"),
        ((*LABEL, "--table", "nope"), "it has: posts"),
        ((*LABEL, "--role", "author=nick"), "no column 'nick'"),
        ((*LABEL, "--role", "author"), "--role 'author' should look like"),
        ((*LABEL, "--option", "colour=red"), "unknown; known: "),
        ((*LABEL, "--option", "timezone=Moon"), "Asia/Taipei"),
        ((*LABEL, "--role", "post_time=content"), "should hold times"),
        ((*LABEL, "--from", "2024-02-01", "--to", "2024-01-01"), "before its end"),
        ((*LABEL, "--from", "yesterday"), "--from 'yesterday' is not a date"),
        ((*LABEL[:4], "--target", "labels.xyz"), "labels.xyz"),
        ((*LABEL[:4], "--target", "no/folder/labels.db"), "no folder"),
        ((*LABEL[:4], "--target", "mysql://u:geheim@127.0.0.1:1/db"), "cannot be reached"),
        ((*LABEL[:4], "--target", "postgresql://u:geheim@127.0.0.1:1/db"), "cannot be reached"),
        (("label", "mysql://u:geheim@127.0.0.1:1/db", *LABEL[2:]), "cannot be reached"),
        (("label", "mysql://u:ge/h@eim@127.0.0.1:1/db", *LABEL[2:]), "written as %XX"),
        (("label", "mysql://u:1?geheim@127.0.0.1:1/db", *LABEL[2:]), "written as %XX"),
        (("label", "posts.db", "--target", "labels.db"), "--rules FILE"),
        (("label", "posts.db", "--model", "nobody", "--target", "labels.db"), "no model 'nobody'"),
        (("label", "posts.db", "--rules", "title=gender.csv", "--target", "labels.db"), "--role title=COLUMN"),
        ((*LABEL, "--groups", "gender.csv"), "s_id and group"),
        ((*LABEL, "--panels", "gender.csv"), "not JSON"),
        (("model", "add", "x/y", "gender.csv"), "cannot name a model"),
        (("model", "add", "x", "gone.csv"), "no rules file"),
        (("run", "show", "last"), "no run"),
        (("sample",), "no run"),
        (("source", "remove", "nobody"), "no source 'nobody'"),
        (("source", "test", "nobody"), "neither a saved source"),
        (("export", "--to", "out.xls"), "an export ends in .csv, .jsonl, .parquet"),
        (("export", "--to", "out.csv"), "no run"),
    ],
)
def test_bad_input_gets_an_answer_to_act_on(posts, tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUDIENCE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "argv", ["audience", *arguments])
    (tmp_path / "noise.db").write_bytes(b"this is no database")
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    answer = "".join(capsys.readouterr())
    assert told in answer
    assert "geheim" not in answer
    assert not (tmp_path / "labels.db").exists()


def test_a_store_of_a_newer_version_is_left_alone(audience, tmp_path):
    audience("run", "list")
    with contextlib.closing(sqlite3.connect(tmp_path / "home" / "audience.db")) as db, db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "newer version" in audience("run", "list", status=1)


def test_the_demo_runs_on_bundled_data(audience, tmp_path):
    told = audience("demo", "--folder", tmp_path / "demo", "--rows", "2000")
    assert "2,000 rows" in told
    assert "/female" in told
