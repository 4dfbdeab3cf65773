"""The notice that clouds give before they take a spot machine back; only the machine itself can ask for it."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable

AWS = "http://169.254.169.254"
"""EC2's instance metadata service; the notice comes two minutes ahead
(docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html)."""

GCP = "http://metadata.google.internal"
"""Compute Engine's metadata server; the notice comes up to 30 s ahead
(cloud.google.com/compute/docs/instances/create-use-spot#detect-preemption)."""

LOOK_SECONDS = 5.0


def wait_for_notice(cloud: str, base: str = "", interval: float = LOOK_SECONDS) -> None:
    """Return when `cloud` ("aws" or "gcp") has said that it takes this machine back. A question without an answer is
    asked again: the metadata service may be busy. base: its address, if not the usual one.
    """
    address, noticed = NOTICES[cloud]
    told = False
    while True:
        try:
            if noticed(base or address):
                return
            told = False
        except OSError as error:  # urllib's errors among them
            if not told:
                print(f"no answer from {base or address}: {error}", flush=True)
            told = True
        time.sleep(interval)


def _aws(base: str) -> bool:
    token = _asked(f"{base}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    return bool(_asked(f"{base}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token}))


def _gcp(base: str) -> bool:
    return _asked(f"{base}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"}).strip() == "TRUE"


def _asked(url: str, headers: dict[str, str], method: str = "GET") -> str:
    """The answer; empty while there is nothing to tell (404)."""
    request = urllib.request.Request(url, headers=headers, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=3) as answer:  # noqa: S310
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return ""
        raise


NOTICES: dict[str, tuple[str, Callable[[str], bool]]] = {"aws": (AWS, _aws), "gcp": (GCP, _gcp)}
