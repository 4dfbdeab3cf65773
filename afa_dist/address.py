"""Places that are no folders of this machine: addresses such as s3://bucket/runs, of any file system that pyarrow knows.

What lies at an address is worked on in a folder of this machine, its working copy: `working_copy` says which.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_SECRETS = ("secret", "password", "token", "sig", "key")


def is_address(place: str) -> bool:
    """Whether `place` is an address rather than a path."""
    return "://" in place


def below(place: str, *names: str) -> str:
    """`place/names...` for a path as for an address, whose options stand behind a question mark."""
    if not is_address(place):
        return "/".join([place.rstrip("/") or place, *names])
    scheme, _, rest = place.partition("://")
    path, mark, options = rest.partition("?")
    return f"{scheme}://" + "/".join([path.rstrip("/"), *names]) + mark + options


def without_options(address: str) -> str:
    """For people: what stands before the question mark."""
    return address.partition("?")[0]


def fault_of(place: str) -> str:
    """Why an address cannot be used: it leads back up, or holds a secret, which would stand in every record of the run.

    Empty for one that can, and for paths. Who holds one as "user@" (gs://anonymous@bucket, abfs://container@account) says
    nothing secret.
    """
    if not is_address(place):
        return ""
    front, _, options = place.partition("://")[2].partition("?")
    names = {option.partition("=")[0].lower() for option in options.split("&")}
    if ":" in front.rpartition("@")[0] or any(word in name for name in names for word in _SECRETS):
        return "holds a secret, which would stand in config.yaml; give it by the environment"
    if "#" in place or {".", ".."} & set(front.split("/")):
        return "holds '#', '.' or '..', which address no folder"
    return ""


def runs_root(runs_dir: str) -> Path:
    """Where run directories go, absolute; of an address, where it is worked on.

    Inside a Ray job the current folder is a throw-away copy of the code, so a relative folder is taken from the home
    directory instead.
    """
    if is_address(runs_dir):
        return working_copy(runs_dir)
    path = Path(runs_dir).expanduser()
    if path.is_absolute():
        return path
    in_ray_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return (Path.home() if in_ray_job else Path.cwd()) / path


def working_copy(address: str, cache: Path | None = None) -> Path:
    """The folder of this machine in which `address` is worked on, below `cache`, by default XDG_CACHE_HOME (~/.cache).

    What lies below an address lies below its folder. Addresses that differ in their options are different places.
    """
    front, _, options = address.partition("?")
    scheme, _, path = front.partition("://")
    if options:
        scheme += "-" + hashlib.sha256(options.encode()).hexdigest()[:8]
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return (cache or cache_home()).joinpath("afa-dist", scheme, *parts)


def cache_home() -> Path:
    """Where programs of this person keep what can be had again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
