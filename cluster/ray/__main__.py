"""Jobs on a running Ray cluster, through its job server.

python -m cluster.ray pretrain --address http://127.0.0.1:8265 -- --config recipes/digits.yaml --runs_dir /shared/runs
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from afa_dist.cli import recipes
from afa_dist.cli.arguments import parse
from afa_dist.cli.mistakes import report
from afa_dist.cli.specification import build
from afa_dist.cli.words import say
from afa_dist.errors import UserError, collected
from cluster.launching import config_problems, job_names
from cluster.ray.submission import Request, entrypoint, first_line, new_name, package, runtime_env

AGENT_SECONDS = 60.0
"""How long the node that is to run a job may take to report after its cluster has started."""


def main(words: Sequence[str]) -> int:
    names = job_names()
    try:
        if not words or words[0] in ("-h", "--help"):
            print((__doc__ or "").strip(), f"\n\nJobs: {', '.join(names)}. Options of a submission: pretrain --help")
            return 0 if words else 2
        if words[0] not in names:
            raise UserError.one("cluster.ray", f"{words[0]!r} is not a job; choose one of {', '.join(names)}")
        return _submit(words[0], list(words[1:]))
    except UserError as error:
        report(error.problems, started=False)
        return 2
    except KeyboardInterrupt:
        return 130


def _submit(script: str, words: list[str]) -> int:
    own = words[: words.index("--")] if "--" in words else words
    request, dry_run = _request(script, own)
    arguments = words[len(own) + 1 :]
    with tempfile.TemporaryDirectory(prefix="afa-job-") as folder:
        code, options, unknown = package(Path(folder), arguments)
        if unknown:
            say(f"warning: git does not know {', '.join(unknown[:5])}; the job runs without (git add takes them along)")
        command = entrypoint(script, options, request)
        if dry_run:
            say(f"{request.server} would run: {command}\nwith {json.dumps(runtime_env(code, request)['env_vars'])} and:")
            say("\n".join(sorted(str(path.relative_to(code)) for path in code.rglob("*") if path.is_file())))
            return 0
        client = _client(request.server)
        job = _sent(client, script, command, runtime_env(code, request))
    say(f"job {job}: {command}")
    ray = f"RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE', 'disabled')} ray job"
    say(f"stop it, all saved: {ray} stop {job} --address {request.server}")
    if request.detach:
        say(f"its log: {ray} logs -f {job} --address {request.server}")
        return 0
    from cluster.ray.follow import Follower

    try:
        return Follower(client, job).follow()
    except KeyboardInterrupt:
        say(f"\njob {job} goes on; its log: {ray} logs -f {job} --address {request.server}")
        raise


def _request(script: str, words: list[str]) -> tuple[Request, bool]:
    """What is asked for here, and whether it is only to be shown.

    Raises:
        UserError: all mistakes.
    """
    arguments = parse(Request, words, program=f"cluster.ray {script}", description=_HELP)
    problems = [*arguments.problems, *config_problems(arguments)]
    request = None
    with collected(problems):
        request = build(Request, recipes.nest(arguments.overrides))
    if problems or request is None:
        raise UserError(dict.fromkeys(problems))
    return request, arguments.dry_run


_HELP = "Submit a job to a running Ray cluster. Options of the job itself stand behind --."


def _client(address: str) -> Any:
    """A client of the job server at `address`.

    Raises:
        UserError: it does not answer, or not with our token.
    """
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/authentication_mode", timeout=10) as answer:  # noqa: S310
            mode = json.load(answer).get("authentication_mode", "")
    except (urllib.error.URLError, OSError, ValueError) as error:
        what = f"no Ray cluster answers at {address} ({getattr(error, 'reason', error)}); is the SSH tunnel open?"
        raise UserError.one("address", f"{what} RAY_API_SERVER_ADDRESS or --address name another one") from error
    if mode == "token":
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported, which keeps it
    else:
        say(f"warning: the cluster at {address} asks for no token: whoever reaches its ports can run code there")
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
        for name in [name for name in logging.root.manager.loggerDict if name.startswith("ray")]:
            logging.getLogger(name).setLevel(logging.WARNING)  # each has a level of its own
        client.list_jobs()
    except Exception as error:  # Ray's own errors of tokens are of several kinds
        what = f"the cluster at {address} does not let us in: {first_line(error)}"
        raise UserError.one("RAY_AUTH_TOKEN_PATH", f"{what} (it must name a file with the cluster's token)") from error
    return client


def _sent(client: Any, script: str, command: str, environment: dict[str, Any]) -> str:
    deadline = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            return str(client.submit_job(entrypoint=command, submission_id=new_name(script), runtime_env=environment))
        except RuntimeError as error:
            # The job server answers some seconds before the node that starts jobs has reported to it.
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise UserError.one("cluster.ray", f"the job was not taken: {first_line(error)}") from error
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
