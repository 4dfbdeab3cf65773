"""KubeRay's published schema, boiled down to what a manifest can get wrong: names, types, limits of its own fields.

python -m tests.clusters.kuberay FOLDER VERSION     (FOLDER: ray-operator/config/crd/bases of KubeRay, on GitHub)

writes kuberay-VERSION.json beside this file. Pods and other parts that are Kubernetes' own are left to its schema.
"""

import json
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

VERSION = "1.7.0"
KINDS = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}

KUBERNETES = {"template", "submitterPodTemplate", "headService", "networkPolicy", "env", "envFrom", "volumeMounts"}
KUBERNETES |= {"securityContext", "gcsFaultToleranceOptions", "historyServerOptions", "status", "metadata"}
"""Fields of Kubernetes' own kinds, and two that no manifest of ours uses and that hold such."""

KEPT = ("type", "enum", "required", "minimum", "maximum", "minLength", "maxLength", "pattern", "format")


def boiled(node: dict) -> dict:
    """A node of an OpenAPI schema as JSON schema, without words; what is not in it is not allowed."""
    kept = {name: node[name] for name in KEPT if name in node}
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in node:
        parts = {name: {} if name in KUBERNETES else boiled(part) for name, part in sorted(node["properties"].items())}
        kept |= {"properties": parts, "additionalProperties": False}
    if isinstance(node.get("additionalProperties"), dict):
        kept["additionalProperties"] = boiled(node["additionalProperties"])
    if "items" in node:
        kept["items"] = boiled(node["items"])
    return kept


def schemas(folder: Path) -> dict:
    found = {}
    for kind, file in KINDS.items():
        versions = yaml.safe_load((folder / file).read_text())["spec"]["versions"]
        (schema,) = [one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1"]
        found[kind] = boiled(schema)
    assert (
        found["RayJob"]["properties"]["spec"]["properties"]["rayClusterSpec"] == found["RayCluster"]["properties"]["spec"]
    )
    found["RayJob"]["properties"]["spec"]["properties"]["rayClusterSpec"] = {}  # validated as that of a RayCluster
    return found


def mistakes(manifest: dict) -> list[str]:
    """What Kubernetes, with KubeRay's definitions installed, would refuse in `manifest`."""
    if manifest["apiVersion"] != "ray.io/v1":
        return _kubernetes(manifest)
    known = json.loads(Path(__file__).with_name(f"kuberay-{VERSION}.json").read_text())
    found = [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in jsonschema.Draft202012Validator(known[manifest["kind"]]).iter_errors(manifest)
    ]
    spec = manifest["spec"]
    if manifest["kind"] == "RayJob":
        found += mistakes({**manifest, "kind": "RayCluster", "spec": spec["rayClusterSpec"]})
        return found + _pod(spec["submitterPodTemplate"])
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        found += _pod(group["template"])
    return found


def _pod(template: dict) -> list[str]:
    metadata = {"name": "pod", **template.get("metadata", {})}
    return _kubernetes({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})


def _kubernetes(manifest: dict) -> list[str]:
    try:
        kubernetes_validate.validate(manifest, "1.37", strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    return []


if __name__ == "__main__":
    place = Path(__file__).with_name(f"kuberay-{sys.argv[2]}.json")
    place.write_text(json.dumps(schemas(Path(sys.argv[1])), indent=1, sort_keys=True) + "\n")
