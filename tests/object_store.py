"""An S3 server of this machine, for tests: moto's, in a process of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import free_port, wait_for_port

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


class ObjectStore:
    """With one bucket. `stop` loses what is in it, and it does not answer; `start` brings back an empty one."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.log = folder / "s3.log"
        self.options = f"?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **KEYS})
        wait_for_port(self.port, self.process, self.log)
        self.filesystem().create_dir("bucket")

    def filesystem(self):
        from pyarrow.fs import S3FileSystem

        return S3FileSystem(
            access_key="test",
            secret_key="test",
            endpoint_override=f"127.0.0.1:{self.port}",
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )

    def address(self, folder: str) -> str:
        return f"s3://bucket/{folder}{self.options}"

    def files(self, folder: str) -> list[str]:
        """Names of all objects below a folder of the bucket."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(f"bucket/{folder}", recursive=True, allow_not_found=True)
        found = [info.path for info in self.filesystem().get_file_info(selector) if info.type == FileType.File]
        return sorted(path.removeprefix(f"bucket/{folder}/") for path in found)

    def wait_for(self, folder: str, ending: str, count: int, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while sum(name.endswith(ending) for name in self.files(folder)) < count:
            assert time.monotonic() < deadline, self.files(folder)
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
