"""Servers of objects on this machine, for tests, each in a process of its own: S3 by moto, and Google's."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import free_port, wait_for_port

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


class ObjectStore:
    """S3 with one bucket. `stop` loses what is in it, and it does not answer; `start` brings back an empty one."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.log = folder / "objects.log"
        self.options = f"?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"
        self.start()

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, env={**os.environ, **KEYS})
        wait_for_port(self.port, self.process, self.log)
        self.make_bucket()

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def make_bucket(self) -> None:
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

    def address(self, folder: str, port: int = 0) -> str:
        """Of a folder; port: of whoever stands in front of the server."""
        return f"s3://bucket/{folder}{self.options}".replace(str(self.port), str(port or self.port))

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


class GoogleStore(ObjectStore):
    """Google's, as gcp-storage-emulator does it. Its client tries again by itself, for a second here."""

    def command(self) -> list[str]:
        program = Path(sys.executable).parent / "gcp-storage-emulator"
        return [str(program), "start", "--host=127.0.0.1", f"--port={self.port}", "--in-memory", "--default-bucket=bucket"]

    def make_bucket(self) -> None:
        pass  # it has one

    def filesystem(self):
        from pyarrow.fs import FileSystem

        return FileSystem.from_uri(self.address(""))[0]

    def address(self, folder: str, port: int = 0) -> str:
        options = f"?endpoint_override=127.0.0.1:{port or self.port}&scheme=http&retry_limit_seconds=1"
        return f"gs://anonymous@bucket/{folder}{options}"
