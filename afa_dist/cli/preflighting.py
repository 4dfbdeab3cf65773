"""The job behind `python -m cluster.preflight`."""

from __future__ import annotations

from rich.table import Table

from afa_dist.cli.job import parse_arguments, resolve_alone, run_job
from afa_dist.cli.words import counted, say
from afa_dist.config.preflight import PreflightRun
from afa_dist.errors import UserError
from afa_dist.runtime.cluster import session
from afa_dist.runtime.placement import addressed_cluster


def main(program: str, description: str) -> int:
    """Look at the cluster that RAY_ADDRESS names; returns the exit code."""
    return run_job(
        resolve_alone(PreflightRun),
        parse_arguments(PreflightRun, program, description),
        check=check,
        check_partly=lambda values: None,
        dry_run=lambda run, address: say(f"would look at the cluster at {address}"),
        execute=execute,
    )


def check(run: PreflightRun) -> str:
    """The cluster's address.

    Raises:
        UserError: none is named.
    """
    address = addressed_cluster()
    if address is None:
        raise UserError.one("RAY_ADDRESS", "is needed: it names the cluster to look at, such as 10.0.0.1:6379")
    return address


def execute(run: PreflightRun, address: str) -> None:
    """Show what was found; what is wrong ends it with exit code 2."""
    say(f"looking at the cluster at {address}, which takes up to a minute ...")
    with session(run.scaling):
        from afa_dist.runtime import preflight  # imports Ray, which must come after the settings of the session

        found = preflight.look(run, address)
    show(found)
    if found.problems:
        raise UserError(dict.fromkeys(found.problems))
    say("all is well")


def show(found: preflight.Found) -> None:  # type: ignore[name-defined]  # noqa: F821 - it is imported late
    """A table of the nodes, and what holds for all of them."""
    table = Table("node", "CPUs", "GPUs", "clock", "free, GB", "into runs_dir", "open to all", "on loopback")
    for facts in found.nodes:
        has = found.resources[facts.node]
        free = ", ".join(f"{value:.0f}" for value in facts.free_gb.values())
        loopback = [one for one in facts.listening if one[0] in ("127.0.0.1", "::1")]
        table.add_row(
            facts.host,
            f"{has.get('CPU', 0):g}",
            f"{has.get('GPU', 0):g}",
            f"{found.skews[facts.node]:+.3f} s",
            free,
            f"{facts.write_mb_s:.0f} MB/s" if facts.write_mb_s else "-",
            f"{len(facts.listening) - len(loopback)} ports",
            f"{len(loopback)} ports",
        )
    say(table)
    versions = found.nodes[0].versions if found.nodes else {}
    say(f"{counted(len(found.nodes), 'node')}; {', '.join(f'{name} {version}' for name, version in versions.items())}")
    say(f"token mode: {'on, strangers are refused' if found.token else 'OFF'}")
    for name, speed in found.bandwidth.items():
        say(f"{name} between the nodes: {speed:.0f} MB/s")
