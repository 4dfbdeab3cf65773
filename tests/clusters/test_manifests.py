"""Cluster files against what reads them: Kubernetes' and KubeRay's schemas, Ray's own parsers, an EC2 of moto's."""

import copy
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from afa_dist.cli import recipes
from tests.clusters.kuberay import mistakes

ROOT = Path(__file__).parents[2]
KUBE = ROOT / "cluster/ray/kuberay"
CLOUDS = ROOT / "cluster/ray/clouds"


def manifests():
    return [one for path in sorted(KUBE.glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())]


def of(kind):
    (found,) = [one for one in manifests() if one["kind"] == kind]
    return found


def pods(spec):
    return [spec["headGroupSpec"]["template"]["spec"], *(group["template"]["spec"] for group in spec["workerGroupSpecs"])]


def test_kubernetes_takes_every_manifest():
    kinds = [one["kind"] for one in manifests()]
    assert sorted(kinds) == ["NetworkPolicy", "PersistentVolumeClaim", "RayCluster", "RayJob", "ServiceAccount"]
    assert {one["metadata"]["name"]: mistakes(one) for one in manifests() if mistakes(one)} == {}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "workerGroupSpecs", 0, "minReplicas"), "two"),
        (("spec", "authOptions", "mode"), "tokens"),
        (("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),  # KubeRay wants text
        (("spec", "headGroupSpec", "template", "spec", "containers", 0, "imagePullPolice"), "Always"),
        (("spec", "autoscaling"), True),
    ],
)
def test_what_is_wrong_is_found(path, value):
    wrong = copy.deepcopy(of("RayCluster"))
    place = wrong
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert mistakes(wrong)


def test_what_kuberay_asks_for_beyond_its_schema():
    """Its operator's own checks (ray-operator/controllers/ray/utils/validation.go of 1.7.0)."""
    cluster, job = of("RayCluster"), of("RayJob")
    for one, longest in ((cluster, 53), (job, 47)):
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", one["metadata"]["name"])
        assert len(one["metadata"]["name"]) <= longest
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    spec = cluster["spec"]
    assert tuple(map(int, spec["rayVersion"].split("."))) >= (2, 52, 0)  # tokens
    for group in spec["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["maxReplicas"]
    assert all("restartPolicy" not in pod for pod in pods(spec))  # the autoscaler's version 2
    yaml.safe_load(job["spec"]["runtimeEnvYAML"])


def test_pods_are_closed_share_storage_and_leave_in_time():
    spec = of("RayCluster")["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    for pod in pods(spec):
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert pod["serviceAccountName"] == of("ServiceAccount")["metadata"]["name"]
        claims = {volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["volumes"]}
        assert of("PersistentVolumeClaim")["metadata"]["name"] in claims
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        assert float(command[command.index("--seconds") + 1]) < pod["terminationGracePeriodSeconds"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
    labels = of("NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items()
    templates = [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
    for template in [*templates, of("RayJob")["spec"]["submitterPodTemplate"]]:
        assert labels <= template["metadata"]["labels"].items()


def test_ray_reads_the_same_bounds_out_of_them():
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    cluster = of("RayCluster")
    cluster["metadata"]["namespace"] = "default"
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    kinds = {name: kind["resources"] for name, kind in config["available_node_types"].items()}
    assert kinds["headgroup"]["CPU"] == 0
    assert (kinds["spot"]["CPU"], kinds["spot"]["GPU"]) == (8, 1)
    assert config["max_workers"] == config["available_node_types"]["spot"]["max_workers"] == 8


def test_the_run_of_the_job_is_one(tmp_path):
    """Its options resolve, and its workers fit into the machines."""
    words = shlex.split(of("RayJob")["spec"]["entrypoint"])
    script = Path(words[1].replace("/opt/afa-dist", str(ROOT)))
    assert script.exists()
    from afa_dist.cli.arguments import parse
    from afa_dist.cli.specification import build
    from afa_dist.config import PretrainRun

    given = parse(PretrainRun, words[2:], program="job", description="")
    assert not given.problems
    recipe = recipes.read_recipe(given.config.replace("/opt/afa-dist", str(ROOT)))
    run = build(PretrainRun, recipes.for_stage(recipe, "pretrain", recipes.nest(given.overrides)))
    group = of("RayCluster")["spec"]["workerGroupSpecs"][0]
    assert run.scaling.threads <= int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert run.scaling.most <= group["maxReplicas"]
    assert run.scaling.autoscale


def cloud(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((CLOUDS / f"{name}.yaml").read_text()))
    validate_config(config)  # against Ray's own schema, as `ray up` does
    return config


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_ray_up_takes_the_file(name):
    config = cloud(name)
    kinds = config["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert config["max_workers"] == kinds["spot"]["max_workers"] == 8
    assert kinds["spot"]["min_workers"] == 0
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ") for command in starts)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("chmod 600 ~/.ray/auth_token" in command for command in config["head_start_ray_commands"])
    assert not any("pip install" in command for command in config["setup_commands"])  # Ray's own would take another Ray
    text = json.dumps(config)
    assert "0.0.0.0" not in text
    for command in commands:
        if "cluster.ray.leave" in command:
            words = command.partition("cluster.ray.leave ")[2].partition(" >")[0].split()
            assert words[words.index("--watch") + 1] == name


def test_gcp_s_machines():
    kinds = cloud("gcp")["available_node_types"]
    assert "scheduling" not in kinds["head"]["node_config"]
    assert kinds["spot"]["node_config"]["scheduling"]["provisioningModel"] == "SPOT"


def test_aws_gets_an_on_demand_head_and_spot_workers(tmp_path, monkeypatch):
    """Ray's own code starts machines on an EC2 of moto's, by our file."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes the key pair there
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    (tmp_path / ".ssh").mkdir()
    with mock_aws():
        from ray.autoscaler._private.aws.config import bootstrap_aws

        ec2 = boto3.client("ec2", region_name="us-west-2")
        boto3.client("iam").create_instance_profile(InstanceProfileName="afa-dist")
        config = cloud("aws")
        for kind in config["available_node_types"].values():
            kind["node_config"]["ImageId"] = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        config = bootstrap_aws(config)
        provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
        for name, kind in config["available_node_types"].items():
            role = "head" if name == "head" else "worker"
            tags = {TAG_RAY_NODE_KIND: role, TAG_RAY_USER_NODE_TYPE: name, "ray-launch-config": "0"}
            provider.create_node(kind["node_config"], tags, 1)
        machines = [one for part in ec2.describe_instances()["Reservations"] for one in part["Instances"]]
    by_type = {machine["InstanceType"]: machine for machine in machines}
    assert set(by_type) == {"m6i.2xlarge", "g5.2xlarge"}
    assert "InstanceLifecycle" not in by_type["m6i.2xlarge"]  # on demand
    assert by_type["g5.2xlarge"]["InstanceLifecycle"] == "spot"
    assert all(machine["MetadataOptions"]["HttpTokens"] == "required" for machine in machines)
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
