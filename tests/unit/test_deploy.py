"""The files in deploy/ are what those who read them expect: checked against their schemas and our own settings."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from audience.cli.main import app
from audience.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
FILES = [DEPLOY / "compose.yaml", *MANIFESTS]
CUSTOM = ("autoscaling.yaml",)
"""Of kinds that the cluster has from elsewhere: no schema of ours to hold them against."""


def ran(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)


def test_compose_file_follows_its_specification() -> None:
    done = ran("check_jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("manifest", [m for m in MANIFESTS if m.name not in CUSTOM], ids=lambda m: m.name)
def test_manifests_follow_the_schemas_of_kubernetes(manifest: Path) -> None:
    done = ran("kubernetes_validate", "--strict", manifest)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout + done.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_settings_in_deployments_exist(file: Path) -> None:
    named = set(re.findall(r"AUDIENCE_([A-Z_]+)", file.read_text("utf-8")))
    assert named <= {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_commands_in_deployments_exist_with_their_options(file: Path) -> None:
    program = typer.main.get_command(app)
    for words in re.findall(r"^ +(?:command|args): \[(.*)\]$", file.read_text("utf-8"), re.MULTILINE):
        command, *options = [word.strip().strip('"') for word in words.split(",")]
        if command in program.commands:
            known = {name for p in program.commands[command].params for name in p.opts}
            assert {option for option in options if option.startswith("--")} <= known


def test_no_password_is_written_into_a_deployment() -> None:
    for file in FILES:
        for password in re.findall(r"://\w+:(\$\{[^}]*\}|[^@\s/]+)@", file.read_text("utf-8")):
            assert password.startswith("${") or password == "PASSWORD"
