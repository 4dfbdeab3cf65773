"""What every job has."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from afa_dist.address import fault_of, is_address
from afa_dist.config.fields import Section, section, setting
from afa_dist.config.scaling import ScalingConfig
from afa_dist.errors import Problem


@dataclasses.dataclass(kw_only=True, frozen=True)
class BaseRun(Section):
    """What every job has."""

    name: str = setting("run", "name of the run; its directory is runs_dir/name")
    runs_dir: str = setting(
        "runs", "folder that holds run directories, or an address of one (s3://, gs://, hdfs://, file://)"
    )
    seed: int = setting(0, "seed of everything random", ge=0)
    scaling: ScalingConfig = section(ScalingConfig, "on what it runs")

    def problems(self) -> Iterator[Problem]:
        bad = self.name in ("", ".", "..") or any(part in ("", "..") for part in self.name.split("/"))
        if bad or "\\" in self.name:
            yield Problem("name", f"{self.name!r} cannot be a folder's name; use letters, digits, '-', '_' and '/'")
        if fault := fault_of(self.runs_dir):
            yield Problem("runs_dir", fault)

    @property
    def mirrored_to(self) -> str | None:
        """The address that run directories are copied to as they grow: runs_dir, if it is one."""
        return self.runs_dir if is_address(self.runs_dir) else None
