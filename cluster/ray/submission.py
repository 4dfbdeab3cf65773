"""What is sent to a Ray cluster: the code as it is now, the command, and how a job there is stopped."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import yaml

from afa_dist.cli import recipes
from afa_dist.config.fields import Section, setting
from afa_dist.errors import Problem
from cluster.snapshot import ROOT, snapshot

RUNTIME_ENV = Path(__file__).with_name("job.yaml")

OWN_FILES = "submitted"
"""Folder of the package with files that are not of the checkout."""

ADDRESS = "http://127.0.0.1:8265"


@dataclasses.dataclass(kw_only=True, frozen=True)
class Request(Section):
    """Where a job goes, and how it is watched from here."""

    address: str = setting(
        "", f"the cluster's job server; empty = RAY_API_SERVER_ADDRESS, or {ADDRESS} (the end of an SSH tunnel)"
    )
    detach: bool = setting(False, "return as soon as the job is submitted, instead of showing its log to the end")
    stop_seconds: int = setting(120, "how long a stopped job may take to save, before it is killed", ge=1)
    python: str = setting("python", "the Python of the cluster's nodes that has the environment of the project")

    def problems(self) -> Iterator[Problem]:
        if self.address and (urlparse(self.address).scheme not in ("http", "https") or not urlparse(self.address).netloc):
            yield Problem("address", f"{self.address!r} is not the address of a job server, such as {ADDRESS}")

    @property
    def server(self) -> str:
        """The job server's address."""
        return self.address or os.environ.get("RAY_API_SERVER_ADDRESS") or ADDRESS


def package(folder: Path, arguments: Sequence[str]) -> tuple[Path, list[str], list[str]]:
    """The code of a job, below `folder`, and its options as they are to be given there.

    A recipe that is not of the checkout is taken along, with all that it builds on. Returns the package, the options, and
    new files that git does not know and that are therefore not in it.

    Raises:
        UserError: the recipe cannot be read.
    """
    code, unknown = snapshot(folder)
    for name in (".rayignore", ".gitignore"):  # all of it is meant to be sent
        (code / name).unlink(missing_ok=True)
    options = list(arguments)
    for place, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag not in ("--config", "--space"):
            continue
        path = Path(value if equals else arguments[place + 1] if place + 1 < len(arguments) else "")
        inside = _name_in(code, path)
        if not inside and path.is_file():
            (code / OWN_FILES).mkdir(exist_ok=True)
            inside = f"{OWN_FILES}/{flag.lstrip('-')}-{path.name}"
            if flag == "--config":
                recipe = recipes.read_recipe(str(path), grid=True, search=True)
                (code / inside).write_text(yaml.safe_dump(recipe, sort_keys=False))
            else:
                shutil.copyfile(path, code / inside)
        if inside:
            options[place if equals else place + 1] = f"{flag}={inside}" if equals else inside
    given = {Path(word.partition("=")[2] or word).resolve() for word in arguments}
    return code, options, [name for name in unknown if (ROOT / name).resolve() not in given]


def _name_in(code: Path, path: Path) -> str:
    """The name of a file of the checkout in its copy; empty if it is none."""
    resolved = path.resolve()
    if not resolved.is_relative_to(ROOT):
        return ""
    name = str(resolved.relative_to(ROOT))
    return name if (code / name).is_file() else ""


def runtime_env(code: Path, request: Request) -> dict[str, Any]:
    """Ray's description of where the job runs."""
    kept: Mapping[str, Any] = yaml.safe_load(RUNTIME_ENV.read_text())
    variables = {**kept["env_vars"], "RAY_JOB_STOP_WAIT_TIME_S": str(request.stop_seconds)}
    return {**kept, "working_dir": str(code), "env_vars": variables}


def entrypoint(script: str, options: Sequence[str], request: Request) -> str:
    """The command line; Ray gives it to a shell."""
    return shlex.join([request.python, f"jobs/{script}.py", *options])


def first_line(error: BaseException) -> str:
    """What an error says, short: Ray's messages have many lines."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def new_name(script: str) -> str:
    """A name for the job: which, when, and something that no other has."""
    return f"{script}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
