"""What may import what."""

import ast
import os
import subprocess
import sys
from pathlib import Path

from afa_dist.cli import SPIN_COUNT

ROOT = Path(__file__).parents[1]
CORE = {"torch", "torchvision", "numpy", "pyarrow", "safetensors"}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_the_jobs_tell_openmp_how_to_wait_before_torch_is_there():
    program = "import os, sys, afa_dist.cli; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    plain = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    for env, count in ((plain, SPIN_COUNT), ({**plain, "GOMP_SPINCOUNT": "7"}, "7")):
        done = subprocess.run([sys.executable, "-c", program], env=env, check=True, capture_output=True, text=True)
        assert done.stdout.split() == [count, "False"]
    for job in sorted((ROOT / "jobs").glob("*.py")):
        first = next(name for name in ordered_imports(job) if name.startswith(("afa_dist", "torch")))
        assert first.startswith("afa_dist.cli"), job


def ordered_imports(path: Path) -> list[str]:
    nodes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in nodes]


def test_imports_point_one_way():
    """cluster -> jobs -> cli -> runtime -> training, evaluation -> the rest; nothing points back."""
    layers = [
        ("cluster",),
        ("jobs",),
        ("afa_dist/cli",),
        ("afa_dist/runtime",),
        (
            "afa_dist/training",
            "afa_dist/evaluation",
            "afa_dist/analysis",
            "afa_dist/report",
            "afa_dist/tuning",
            "afa_dist/diffusion",
        ),
        ("afa_dist/models", "afa_dist/data", "afa_dist/losses", "afa_dist/attacks"),
        ("afa_dist/config",),
        ("afa_dist/distributed",),
    ]
    wrong = []
    for depth, layer in enumerate(layers):
        above = tuple(name.replace("/", ".") for upper in layers[:depth] for name in upper)
        for folder in layer:
            for path in (ROOT / folder).rglob("*.py"):
                names = [name for name in imports(path) if above and name.startswith(above)]
                wrong += [f"{path.relative_to(ROOT)} imports {name}" for name in names]
    assert not wrong


def test_only_runtime_knows_ray():
    for path in (ROOT / "afa_dist").rglob("*.py"):
        names = {name.split(".")[0] for name in imports(path)}
        assert "submitit" not in names, path
        if "runtime" not in path.parts:
            assert "ray" not in names, path


def test_what_runs_beside_a_job_on_its_nodes_needs_the_standard_library_alone():
    """It starts at once, and outside of the container that has everything else."""
    program = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {*sys.stdlib_module_names, "cluster"}:
            raise ImportError("forbidden: " + name)
sys.meta_path.insert(0, Forbid())
import cluster.slurm.task, cluster.slurm.supervisor, cluster.slurm.closed
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_core_needs_five_packages_only():
    """The parts that a GPU machine without Ray uses import with the rest forbidden."""
    code = f"""
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        others = {{"ray", "pydantic", "yaml", "rich", "sklearn", "tensorboard", "submitit"}}
        others |= {{"huggingface_hub", "captum", "kornia", "plotly", "jinja2"}}
        if name.split(".")[0] in others:
            raise ImportError("forbidden: " + name)
sys.meta_path.insert(0, Forbid())
import afa_dist, afa_dist.config, afa_dist.attacks, afa_dist.losses, afa_dist.models.build, afa_dist.models.export
import afa_dist.models.robust_classifier
import afa_dist.data.catalogue, afa_dist.training.pretrain, afa_dist.training.finetune, afa_dist.training.schedule
import afa_dist.training.optimiser, afa_dist.training.job, afa_dist.training.checkpoint
import afa_dist.evaluation.evaluator, afa_dist.evaluation.plan, afa_dist.evaluation.summary, afa_dist.analysis.parts
assert {sorted(CORE)!r}
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
