"""The model card: README.md of an exported folder, with the figures as metadata that the hub reads.

Every figure has its interval, its number of images and the name of what was done; what is not AutoAttack says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from afa_dist.config.attack_names import VERSION_WORDS, versions_in
from afa_dist.config.exporting import ExportRun
from afa_dist.config.fields import pixels
from afa_dist.report.evaluations import NORMS, Evaluation
from afa_dist.report.recipe import Stage, last_name, without_places

REPOSITORY_WORDS = "USER/NAME"
"""Stands in the example of loading where the model is not on the hub."""

_VERSIONS = {"autoattack": "package of the attacks"}
"""Names of versions in summary.json that are not packages' own."""


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """What a card says. config: the model's config.json. sha256: of its weights. stages: how it was trained."""

    title: str
    config: Mapping[str, Any]
    sha256: str
    parameters: int
    evaluations: Sequence[Evaluation]
    stages: Sequence[Stage]


def model_card(export: ExportRun, facts: CardFacts) -> str:
    """The whole README.md; needs huggingface_hub."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    data = ModelCardData(
        model_name=facts.title,
        license=export.licence,
        library_name="afa-dist",
        pipeline_tag="image-classification",
        tags=["adversarial-robustness", "robust-classifier"],
        metrics=["accuracy"],
        eval_results=[EvalResult(**values) for values in _results(facts.evaluations)],
    )
    body = "\n\n".join(part for section in _sections(export, facts) for part in section)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


def _results(evaluations: Sequence[Evaluation]) -> Iterator[dict[str, Any]]:
    """Every figure, once, as the hub wants it: a share from 0 to 1."""
    for evaluation in evaluations:
        for name, entry in evaluation.rows():
            low, high = entry["interval_95"]
            yield {
                "task_type": "image-classification",
                "dataset_type": evaluation.data,
                "dataset_name": evaluation.data,
                "dataset_split": evaluation.part,
                "metric_type": "accuracy",
                "metric_name": _metric_words(evaluation, name),
                "metric_value": round(entry["accuracy"], 6),
                "metric_args": {"images": entry["images"], "interval_95": [round(low, 6), round(high, 6)]},
            }


def _metric_words(evaluation: Evaluation, name: str) -> str:
    if name == "clean":
        return "clean accuracy"
    # Where all parts are there, one of them by itself is not what all are called.
    verdict = "" if versions_in(evaluation.summary["attacks"]) else f"; {evaluation.label}"
    return f"robust accuracy under {attack_words(name)} ({evaluation.threat}{verdict})"


def attack_words(name: str) -> str:
    """Versions of AutoAttack by their names, attacks by ours."""
    return VERSION_WORDS.get(name, name)


def _sections(export: ExportRun, facts: CardFacts) -> Iterator[Iterator[str]]:
    yield _head(export, facts)
    yield _threat(facts)
    for evaluation in facts.evaluations:
        yield _figures(evaluation)
    yield _training(export, facts)
    yield _loading(export, facts)
    yield _limits(facts)
    yield _licence(export)


def _head(export: ExportRun, facts: CardFacts) -> Iterator[str]:
    shape = facts.config["shape"]
    yield f"# {facts.title}"
    height, width = shape.get("size", (32, 32))
    yield (
        f"An image classifier trained to resist adversarial perturbations: {facts.config['model']['arch']}, "
        f"{facts.parameters / 1e6:.2f} M parameters, {shape['channels']} x {height} x {width} pixels in [0, 1] to logits "
        f"of {len(shape['classes'])} classes (their names are in config.json). Pixels are normalised inside. Trained and "
        "measured with afa-dist."
    )
    lines = [f"- SHA-256 of model.safetensors: `{facts.sha256}`"]
    lines += [f"- Authors: {', '.join(export.authors)}"] if export.authors else []
    lines += [f"- Paper: <{export.paper}>" + (f" ({export.venue})" if export.venue else "")] if export.paper else []
    yield "\n".join(lines)


def _threat(facts: CardFacts) -> Iterator[str]:
    trained = facts.config["threat"]
    yield "## Threat model"
    yield (
        f"An attacker who knows the network and its weights may change the pixels of an image, within a ball around it. "
        f"Training: {NORMS.get(trained['norm'], trained['norm'])}, eps {pixels(trained['eps'])}. Measured: "
        f"{'; '.join(dict.fromkeys(evaluation.threat for evaluation in facts.evaluations))}. Distances are on the pixel "
        "scale [0, 1]; perturbed pixels stay in it."
    )


def _figures(evaluation: Evaluation) -> Iterator[str]:
    summary = evaluation.summary
    part = "test" if evaluation.part == "test" else "held-out training"
    whole = "" if evaluation.on_full_test_set else ", not the full test set"
    yield f"## Accuracy: {evaluation.data}, {evaluation.threat}"
    yield f"{evaluation.images:,} {part} images{whole}. What the last figure is: **{evaluation.label}**."
    rows = ["| attack | accuracy in % | 95 % interval | right | images |", "| --- | --- | --- | --- | --- |"]
    for name, entry in evaluation.rows():
        low, high = entry["interval_95"]
        interval = f"{100 * low:.2f} to {100 * high:.2f}"
        figure = f"{100 * entry['accuracy']:.2f}"
        rows.append(f"| {attack_words(name)} | {figure} | {interval} | {entry['right']} | {entry['images']} |")
    yield "\n".join(rows)
    yield (
        "Attacks are run in this order, each on the images that the ones before it left: an image counts if it is right "
        "as it is, under the attack, and under all above it. Intervals (Wilson) are those of the number of images."
    )
    if summary["warnings"]:
        yield "**Warnings of the evaluation:**\n\n" + "\n".join(f"- {warning}" for warning in summary["warnings"])
    else:
        yield "The evaluation found no signs of masked gradients and had no warnings."
    versions = ", ".join(f"{_VERSIONS.get(name, name)}: {value}" for name, value in summary["versions"].items())
    code = (evaluation.start.get("code") or {}).get("commit") or "not recorded"
    yield "\n".join(
        (
            f"- Seed {summary['seed']}, shards of {summary['shard_size']}, batches of {summary['batch_size']} images",
            f"- Versions: {versions}",
            f"- Code: commit {code}",
            f"- Fingerprint of the images (SHA-256): `{summary['data_fingerprint']}`",
        )
    )


def _training(export: ExportRun, facts: CardFacts) -> Iterator[str]:
    yield "## Training"
    more = "with" if export.additional_data else "without"
    data = facts.config["data"]
    generated = ""
    if data.get("generated"):
        share = f"{100 * data['generated_fraction']:g} %"
        generated = f", {share} of each batch drawn by a generative model (set {last_name(str(data['generated']))})"
    yield f"Data set {data['name']}, {more} further images{generated}; seed {facts.config['seed']}."
    if not facts.stages:
        yield "The specification of the training run is not part of this export."
    elif (init := str(facts.stages[0].run.get("init", "scratch"))) != "scratch":
        yield f"It started from weights that are not described here ({last_name(init)})."
    for stage in facts.stages:
        lines = [f"- Seed {stage.run.get('seed')}", f"- Code: commit {stage.commit}"]
        if fingerprint := stage.start.get("data_fingerprint"):
            lines.append(f"- Fingerprint of the images (SHA-256): `{fingerprint}`")
        if versions := stage.start.get("versions"):
            lines.append(f"- Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}")
        if hardware := stage.start.get("hardware"):
            lines.append(f"- Hardware: {', '.join(hardware.get('gpus') or [hardware.get('processor', 'not recorded')])}")
        yield f"### {stage.name.capitalize()}"
        yield "\n".join(lines)
        recipe = yaml.safe_dump(without_places(stage.run), sort_keys=False).strip()
        yield f"<details><summary>Resolved specification</summary>\n\n```yaml\n{recipe}\n```\n\n</details>"


def _loading(export: ExportRun, facts: CardFacts) -> Iterator[str]:
    where = export.push_to_hub or REPOSITORY_WORDS
    shape = facts.config["shape"]
    height, width = shape.get("size", (32, 32))
    yield "## Loading"
    yield "\n".join(
        (
            "```python",
            "import torch",
            "from afa_dist import RobustClassifier",
            "",
            f'model = RobustClassifier.from_pretrained("{where}")  # or the folder that holds this file',
            f"pixels = torch.rand(1, {shape['channels']}, {height}, {width})  # in [0, 1]",
            "logits = model(pixels)",
            "print(model.classes[logits.argmax().item()])",
            "```",
        )
    )
    yield "The module is in evaluation mode. Weights are safetensors; nothing in the folder is executed."


def _limits(facts: CardFacts) -> Iterator[str]:
    yield "## Limitations"
    lines = [
        "Robust accuracy is an upper bound: a better attack may break more images.",
        "The figures hold for the perturbations named above, not for larger ones, other norms, or changes such as blur, "
        "rotation or other lighting.",
        "They are those of one network; other seeds give others.",
    ]
    if not any(evaluation.has_autoattack for evaluation in facts.evaluations):
        lines.append("No evaluation here is comparable with published leaderboards, which ask for the standard ensemble.")
    if not any(evaluation.on_full_test_set for evaluation in facts.evaluations):
        lines.append("No evaluation here is on the full test set.")
    yield "\n".join(f"- {line}" for line in lines)


def _licence(export: ExportRun) -> Iterator[str]:
    yield "## Licence"
    yield export.licence or "No licence is granted by this card. Ask the authors."
