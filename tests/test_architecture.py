"""The house: imports go down only, and importing the package is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "heclip_lite"
FLOORS = {
    "ground": ["tokens", "config", "store", "download", "ranks", "runtime"],
    "data": [
        "images",
        "contract",
        "dlpfc",
        "sections",
        "patches",
        "genes",
        "registration",
        "lattice",
        "export",
        "spaceranger",
        "datasets",
        "orientation",
        "readers_files",
        "readers_images",
        "readers_counts",
        "gene_ids",
        "readers_parts",
        "readers_visium",
        "readers_tables",
        "readers_stores",
        "readers_spatialdata",
        "readers",
        "stain",
        "tissue_anatomy",
        "tissue_image",
        "tissue_genes",
        "tissue",
        "slide_files",
        "pyramid",
    ],
    "learning": [
        "pathology",
        "encoders",
        "losses",
        "networks",
        "training",
        "transforms",
        "appearance",
        "features",
        "backbones",
        "slide_maps",
    ],
    "methods": [
        "retrieval",
        "base",
        "trained",
        "heclip",
        "baselines",
        "regression",
        "oracles",
        "correction",
        "interpolation",
        "histosge",
        "methods",
        "recipes",
        "superres",
        "bare",
        "saved",
        "index",
        "slide_parts",
        "slide_job",
        "wholeslide",
    ],
    "judging": [
        "splits",
        "metrics",
        "reference_metrics",
        "ceilings",
        "bootstrap",
        "evaluation",
        "recovery",
        "domains",
        "audit",
        "leakage",
        "switches",
        "ledger",
        "dense_ledger",
        "ablations",
    ],
    "face": [
        "charts",
        "result_charts",
        "dense_charts",
        "plotting",
        "controls",
        "slide_widgets",
        "model_widgets",
        "widgets",
        "answers",
        "exercises",
        "quiz",
        "course",
        "cli_config",
        "cli_files",
        "cli_support",
        "cli_sections",
        "cli_results",
        "cli_methods",
        "cli_check",
        "cli_train",
        "cli_predict",
        "cli_slide",
        "cli_judge",
        "cli_domains",
        "cli",
    ],
}
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS.values()) for module in modules}
HEAVY = {"torch", "timm", "scanpy", "squidpy", "spatialdata", "matplotlib", "seaborn", "sklearn"}
# What these modules are about; the others import heavy packages inside functions.
MAY_IMPORT = {
    "torch": {
        "ranks",
        "encoders",
        "losses",
        "networks",
        "training",
        "retrieval",
        "index",
        "slide_maps",
        "heclip",
        "regression",
        "histosge",
        "appearance",
        "ledger",
        "trained",
    },
}


def imports(path: Path, *, top_only: bool) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else list(ast.walk(tree))
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            own = node.module == "heclip_lite"
            names += [f"heclip_lite.{a.name}" for a in node.names] if own else [node.module]
    return names


MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def test_every_module_has_a_floor():
    assert set(MODULES) == set(FLOOR_OF)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    for name in imports(PACKAGE / f"{module}.py", top_only=False):
        if name.startswith("heclip_lite."):
            other = name.split(".")[1]
            assert FLOOR_OF[other] <= FLOOR_OF[module], f"{module} imports {other}, a floor above"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_stay_inside_functions(module):
    for name in imports(PACKAGE / f"{module}.py", top_only=True):
        package = name.split(".")[0]
        if package in HEAVY:
            assert module in MAY_IMPORT.get(package, ()), f"{module} imports {name} at the top"


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, heclip_lite; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_model_code_runs_where_only_torch_timm_numpy_and_anndata_are():
    """On a bare GPU machine, scanpy and its kin may be missing."""
    code = (
        "import sys\n"
        "for name in ('scanpy', 'squidpy', 'spatialdata', 'matplotlib', 'seaborn', 'ipywidgets'):\n"
        "    sys.modules[name] = None\n"
        "from heclip_lite import encoders, heclip, losses, networks, retrieval, training\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
