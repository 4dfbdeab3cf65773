"""Exported models on a model hub (huggingface_hub, the extra `hub`): bring one here, or put one there.

Only files that are named here travel. Nothing else of a repository is downloaded, and nothing else of a folder is uploaded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from afa_dist.errors import UserError
from afa_dist.models.export import CONFIG, WEIGHTS

MODEL_FILES = (WEIGHTS, CONFIG)

EXPORT_FILES = (*MODEL_FILES, "README.md", "robustbench.json")
"""Of an export with its card."""

_NAME = r"[A-Za-z0-9][\w.-]*"


def is_repository(name: str) -> bool:
    """Whether `name` can be that of a repository: NAME or USER/NAME."""
    return re.fullmatch(rf"{_NAME}(/{_NAME})?", name) is not None


def download_model(repo_id: str, revision: str | None = None) -> Path:
    """The folder, in the hub's own cache, that holds the model of `repo_id` at `revision` (a branch, tag or commit).

    Raises:
        UserError: no such repository or revision, no right to read it, or no connection.
    """
    require_hub()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(MODEL_FILES)))
    except Exception as error:  # of the hub's client, of the connection, of the disk: each has exceptions of its own
        at = f" at revision {revision}" if revision else ""
        raise UserError.one("model", f"the hub gives no {repo_id}{at}: {_in_words(error)}") from error


def upload_folder(folder: Path, repo_id: str, files: Sequence[str], *, token: str | None, private: bool | None) -> str:
    """Put `files` of `folder` into the repository `repo_id`, which is made if there is none; returns its address.

    token: without one, the hub's client takes that of HF_TOKEN or of its login. private: of a repository that is made
    for it; None leaves that to the hub.

    Raises:
        UserError: the hub refuses or does not answer; or `private`, and the repository is there and public.
    """
    require_hub()
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        repository = api.create_repo(repo_id, private=private, exist_ok=True)
        # A repository that was there already keeps its visibility, whatever was asked for.
        public = private and not api.repo_info(repository.repo_id).private
        if not public:
            message = "Upload a robust classifier"
            api.upload_folder(
                repo_id=repository.repo_id, folder_path=folder, allow_patterns=list(files), commit_message=message
            )
    except Exception as error:  # as in download_model
        raise UserError.one("push_to_hub", f"the hub does not take {repo_id}: {_in_words(error)}") from error
    if public:
        raise UserError.one("private", f"{repo_id} is on the hub already, and public; nothing was uploaded")
    return str(repository)


def require_hub() -> None:
    """
    Raises:
        UserError: huggingface_hub is not installed.
    """
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise UserError.one("", "this needs huggingface_hub: pip install 'afa-dist[hub]'") from error


def _in_words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]
