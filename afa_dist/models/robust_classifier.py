"""An exported classifier by one call: for attacks, benchmarks and other people's code.

    model = RobustClassifier.from_pretrained("runs/digits/finetune")    # or a folder, or USER/NAME on the hub
    logits_BK = model(x_BCHW)                                           # pixels in [0, 1]

Legend: B images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from afa_dist.errors import UserError
from afa_dist.models.export import CONFIG, load_classifier, write_classifier
from afa_dist.models.hub import MODEL_FILES, download_model, is_repository, upload_folder
from afa_dist.models.networks import Classifier


class RobustClassifier(nn.Module):
    """A trained network: pixels in [0, 1] (B, C, H, W) to logits (B, K); it normalises them itself.

    net: the network. config: what it was made with (architecture, data, threat model, seed), as in config.json.
    classes: names, in the order of the logits.
    """

    def __init__(self, net: Classifier, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.net = net
        self.config = dict(config)
        self.classes: tuple[str, ...] = tuple(config["shape"]["classes"])

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.net(x_BCHW)

    @classmethod
    def from_pretrained(cls, place: str | Path, revision: str | None = None) -> RobustClassifier:
        """Load an exported model, in evaluation mode on the CPU. Nothing that comes with the weights is executed.

        place: an exported folder, a run directory of jobs/finetune.py, or a repository of the hub (NAME or USER/NAME;
        needs the extra `hub`). revision: branch, tag or commit of a repository.

        Raises:
            UserError: there is none, or it is damaged, or not ours.
        """
        folder = _folder(place, revision)
        exported = load_classifier(folder)
        return cls(exported.net, exported.config).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json, as `from_pretrained` reads them. Weights are kept in fp32."""
        write_classifier(Path(folder), self.net.state_dict(), self.config)

    def push_to_hub(self, repo_id: str, token: str | None = None, private: bool | None = None) -> str:
        """Put model.safetensors and config.json into a repository of the hub; returns its address.

        It is made if there is none. token: by default that of HF_TOKEN or of the hub's login. private: by default what the
        hub does by itself. jobs/export.py adds a model card.

        Raises:
            UserError: the hub refuses or does not answer.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload_folder(Path(folder), repo_id, MODEL_FILES, token=token, private=private)


def _folder(place: str | Path, revision: str | None) -> Path:
    folder = Path(place)
    if folder.is_dir():
        if revision is not None:
            raise UserError.one("revision", f"{place} is a folder; only repositories of the hub have revisions")
        run = folder / "model"
        return run if (run / CONFIG).exists() else folder
    if not isinstance(place, str) or not is_repository(place):
        raise UserError.one("model", f"{place} is neither a folder nor the name of a repository (USER/NAME)")
    return download_model(place, revision)
