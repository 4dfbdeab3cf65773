"""Jobs on Slurm.

python -m cluster.slurm pretrain --nodes 2 --gpus-per-node 8 --time 24:00:00 --partition gpu -- --config recipes/digits.yaml
python -m cluster.slurm status|cancel [RUN ...]
python -m cluster.slurm logs [-f] RUN
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afa_dist.cli import recipes
from afa_dist.cli.arguments import Arguments, parse
from afa_dist.cli.mistakes import report
from afa_dist.cli.specification import build
from afa_dist.cli.words import say
from afa_dist.config.fields import to_mapping
from afa_dist.errors import Problem, UserError, collected
from cluster.launching import config_problems, job_names
from cluster.slurm import watch
from cluster.slurm.batch import shown
from cluster.slurm.checks import request_problems
from cluster.slurm.commands import forget_own_job, tested
from cluster.slurm.jobs import Job, resolve
from cluster.slurm.planning import Planned, plan
from cluster.slurm.request import FOLDER, Request
from cluster.slurm.store import Store
from cluster.slurm.submit import Submitter
from cluster.snapshot import ROOT, snapshot

SITES = ROOT / "cluster" / "sites"
SITE = "AFA_DIST_SITE"
"""Environment variable with the site's file, or the name of one in cluster/sites."""


def main(words: Sequence[str]) -> int:
    try:
        if not words or words[0] in ("-h", "--help"):
            print((__doc__ or "").strip(), f"\n\nJobs: {', '.join(job_names())}. Options of a launch: pretrain --help")
            return 0 if words else 2
        if words[0] in ("status", "logs", "cancel"):
            return _look(words[0], list(words[1:]))
        if words[0] not in job_names():
            what = f"{words[0]!r} is not a job; choose one of {', '.join(job_names())}, or status, logs, cancel"
            raise UserError.one("cluster.slurm", what)
        return _launch(words[0], list(words[1:]))
    except UserError as error:
        report(error.problems, started=False)
        return 2
    except KeyboardInterrupt:
        return 130


def _look(what: str, words: list[str]) -> int:
    site, words = _taken(words, "--site")
    folder, words = _taken(words, "--folder")
    store = Store.at(folder or str(_site(site).get("folder", FOLDER)))
    runs = [word for word in words if not word.startswith("-")]
    flags = {word for word in words if word.startswith("-")}
    if unknown := flags - ({"-f", "--follow"} if what == "logs" else set()):
        raise UserError([Problem(flag, f"is not an option of {what}") for flag in sorted(unknown)])
    if what == "status":
        return watch.status(store, runs)
    if what == "logs" and len(runs) == 1:
        return watch.logs(store, runs[0], follow=bool(flags))
    if what == "cancel" and runs:
        return watch.cancel(store, runs)
    raise UserError.one(what, "needs a run: its path, its name, or the number of its job")


def _launch(script: str, words: list[str]) -> int:
    """Check everything, then submit; or only show what would be."""
    own = words[: words.index("--")] if "--" in words else words
    rest = words[len(own) + 1 :]
    site, own = _taken(own, "--site")
    arguments = parse(Request, own, program=f"cluster.slurm {script}", description=_HELP)
    request, job = _checked(script, arguments, _site(site), rest)
    planned = plan(script, job, request)
    if arguments.dry_run:
        _show(_draft(Store(Path(request.folder).expanduser().absolute()), request, job), planned)
        return 0
    store = Store.at(request.folder)
    forget_own_job(os.environ, [name for name, value in to_mapping(request).items() if value])
    for name, script_text in _draft(store, request, job).trials(planned).items():
        answer = tested(script_text)
        if answer and request.check:
            say(f"{name}: {answer}")
    if request.check:
        say("all is well; nothing was submitted")
        return 0
    folder = store.new_folder(job.place)
    code, unknown = snapshot(store.path)
    if unknown:
        say(f"warning: git does not know {', '.join(unknown[:5])}; the job runs without (git add takes them along)")
    submitter = Submitter(store, request, job.place, folder, code)
    jobs = submitter.submit(planned)
    for number, what in jobs.items():
        say(f"job {number}: {what}")
    say(f"run directory: {job.place}")
    say(f"logs: {folder}; or python -m cluster.slurm logs -f {next(iter(jobs))}")
    return 0


def _draft(store: Store, request: Request, job: Job) -> Submitter:
    """What makes the scripts of a submission that is not made."""
    return Submitter(store, request, job.place, store.run_folder(job.place) / "NEW", store.path / "code" / "NEW")


_HELP = "Submit a job to Slurm. Options of the job itself stand behind --."


def _checked(script: str, arguments: Arguments, site: Mapping[str, Any], rest: Sequence[str]) -> tuple[Request, Job]:
    """The request and the job, once nothing is wrong with either.

    Raises:
        UserError: all mistakes of both.
    """
    problems = [*arguments.problems, *config_problems(arguments)]
    request, job = None, None
    values = recipes.merge(site, recipes.nest(arguments.overrides))
    with collected(problems):
        request = build(Request, values)
    if request is not None and not arguments.dry_run:
        with collected(problems):
            problems.extend(request_problems(request))
    nodes, gpus = (request.nodes, request.gpus_per_node) if request else (1, 0)
    with collected(problems):
        job = resolve(script, rest, nodes, gpus)
    if request is not None:
        if request.array and job is not None and script != "pipeline" and not job.in_shards:
            what = " ".join([script, *job.words])
            problems.append(
                Problem(
                    "array", f"is for evaluate, generate sample and select, and pipelines with --chain; {what} is one job"
                )
            )
        if request.chain != (script == "pipeline") and (request.chain or request.array):
            problems.extend(_chain_problems(script, request))
    if problems or request is None or job is None:
        raise UserError(dict.fromkeys(problems))
    return request, job


def _chain_problems(script: str, request: Request) -> list[Problem]:
    if request.chain:
        return [Problem("chain", f"is for pipelines; {script} is one stage")]
    if script == "pipeline":
        return [Problem("array", "of a pipeline's evaluation needs a job a stage: add --chain")]
    return []


def _site(given: str) -> dict[str, Any]:
    """The defaults of a site: a file, the name of one in cluster/sites, or none."""
    name = given or os.environ.get(SITE, "") or ("default" if (SITES / "default.yaml").exists() else "")
    if not name:
        return {}
    path = SITES / f"{name}.yaml" if "/" not in name and (SITES / f"{name}.yaml").exists() else Path(name)
    if not path.exists():
        known = ", ".join(sorted(found.stem for found in SITES.glob("*.yaml")))
        raise UserError.one("--site", f"{name!r} is neither a file nor one of cluster/sites ({known})")
    return recipes.read_yaml(str(path))


def _taken(words: list[str], flag: str) -> tuple[str, list[str]]:
    """The value of `flag` and the words without it."""
    for place, word in enumerate(words):
        if word.startswith(f"{flag}="):
            return word.partition("=")[2], [*words[:place], *words[place + 1 :]]
        if word == flag:
            if place + 1 == len(words):
                raise UserError.one(flag, "needs a value")
            return words[place + 1], [*words[:place], *words[place + 2 :]]
    return "", words


def _show(submitter: Submitter, planned: Sequence[Planned]) -> None:
    for name, script, command in submitter.scripts(planned):
        print(f"# {name}: batch script\n{script}\n# runs, on the first node:\n#   {shown(command)}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
