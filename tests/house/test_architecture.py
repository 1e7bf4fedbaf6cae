"""The house: its one rule, and that importing it is cheap.

Files at the top are the core and import only each other; a folder imports the core and the folders
to its left; nothing with a leading underscore crosses a file; a folder's `__init__` is its face.
A new file needs no entry here.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = {"config", "losses", "networks", "training", "retrieval", "distributed", "runtime", "store"}
# From left to right; the classroom and the tools stand above the package.
ORDER = ["core", "data", "features", "methods", "spatial", "evaluation", "plotting", "cli"]
ORDER += ["heclip_course", "tools"]
HEAVY = {"torch", "timm", "scanpy", "squidpy", "spatialdata", "matplotlib", "seaborn", "sklearn"}
# What these folders are about; the others import heavy packages inside functions.
MAY_IMPORT = {"torch": {"core", "features", "methods", "evaluation"}}
# Private names that cross files today: none, and so it shall stay.
PRIVATE: set[str] = set()

OURS = {
    ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
    for root, package in ((ROOT, "heclip_lite"), (ROOT / "book", "heclip_course"))
    for path in sorted((root / package).rglob("*.py"))
}
FACES = [name for name, path in OURS.items() if path.name == "__init__.py"]
PACKAGE = [name for name in OURS if name != "heclip_lite"]


def folder_of(module: str) -> str:
    """The folder of the house that a module stands in: ``"core"`` for the files at the top."""
    package, *parts = module.split(".")
    if package == "heclip_course":
        return package
    return parts[0] if parts and f"heclip_lite.{parts[0]}" in FACES else "core"


def imports(tree: ast.AST, module: str, *, face: bool) -> Iterator[tuple[str, str | None]]:
    """What a file imports: a module, and a name in it; relative imports are made absolute."""
    here = module if face else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = here.rsplit(".", node.level - 1)[0] if node.level > 1 else here
                base = ".".join(filter(None, [above, node.module]))
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner, None) if inner in OURS else (base, alias.name)


def read(module: str, *, top_only: bool = False) -> list[tuple[str, str | None]]:
    path = OURS[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if top_only:
        tree.body = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    return list(imports(tree, module, face=path.name == "__init__.py"))


def broken(module: str, found: list[tuple[str, str | None]]) -> list[str]:
    """Sentences about imports that go up."""
    own = folder_of(module)
    said = []
    for other, name in found:
        if other.split(".")[0] not in ("heclip_lite", "heclip_course"):
            continue
        if other == "heclip_lite":  # a public path of the face leads into any folder
            said += [] if name == "__version__" else [f"{module} imports {name} from the face"]
        elif ORDER.index(folder_of(other)) > ORDER.index(own):
            said.append(f"{module} in {own} imports {other}, which stands to its right")
    return said


def test_the_core_is_eight_files_and_seven_folders():
    top = ROOT / "heclip_lite"
    assert {path.stem for path in top.glob("*.py")} - {"__init__"} == CORE
    assert {p.name for p in top.iterdir() if (p / "__init__.py").exists()} == set(ORDER[1:8])


@pytest.mark.parametrize("module", PACKAGE)
def test_imports_go_to_the_left_only(module):
    assert not broken(module, read(module))


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("heclip_lite.losses", "from heclip_lite.data import sections"),
        ("heclip_lite.data.images", "from ..methods.heclip import HECLIP"),
        ("heclip_lite.data.readers.files", "from ... import plotting"),
        ("heclip_lite.methods.base", "def f():\n    import heclip_lite.cli.check"),
        ("heclip_lite.methods.base", "from heclip_lite import contest"),
        ("heclip_lite.plotting.charts", "import heclip_course"),
    ],
)
def test_an_import_to_the_right_is_seen(module, line):
    assert broken(module, list(imports(ast.parse(line), module, face=False)))


@pytest.mark.parametrize("module", PACKAGE)
def test_no_private_name_crosses_a_file(module):
    tree = ast.parse(OURS[module].read_text(encoding="utf-8"))
    found = {f"{other}.{name}" for other, name in read(module) if other in OURS and name}
    bound = {}  # what a name in this file is, where it is one of our modules
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                bound |= {alias.asname or alias.name: inner} if inner in OURS else {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in bound:
                found.add(f"{bound[node.value.id]}.{node.attr}")
    private = {n for n in found if n.rpartition(".")[2].startswith("_") and not n.endswith("__")}
    assert private <= PRIVATE


@pytest.mark.parametrize("module", PACKAGE)
def test_heavy_packages_stay_inside_functions(module):
    for other, _ in read(module, top_only=True):
        package = other.split(".")[0]
        if package in HEAVY:
            assert folder_of(module) in MAY_IMPORT.get(package, ()), f"{other} at the top"


@pytest.mark.parametrize("name", FACES)
def test_a_face_offers_what_is_there_and_no_name_means_two_things(name):
    face = importlib.import_module(name)
    assert face.__all__
    for offered in face.__all__:
        value = getattr(face, offered)
        assert inspect.ismodule(value) == (f"{name}.{offered}" in OURS), f"{name}.{offered}"


@pytest.mark.parametrize(
    "names",
    [
        "HECLIP HisToSGE BLEEP CLIP read_section synthetic_sections contest fill_in find_domains",
        "losses.image_centric_loss losses.bleep_loss losses.clip_loss config training.train",
        "networks.ProjectionHead networks.HisToSGE networks.reference_state",
        "retrieval.retrieve retrieval.impute",
        "data.read_her2st data.synthetic_sections data.read_section data.check_section",
        "data.um_per_px data.donor_of data.read_image data.match_genes data.make_section",
        "data.hide_expression features.describe methods.Ridge methods.recipes.contestants",
        "evaluation.pearson_per_gene evaluation.contest spatial.fill_in spatial.find_domains",
        "plotting.slide",
    ],
)
def test_public_paths_lead_somewhere(names):
    """In a process of its own, so that nothing else has imported what they need."""
    read = "; ".join(f"heclip_lite.{name}" for name in names.split())
    subprocess.run([sys.executable, "-c", f"import heclip_lite; {read}"], check=True)


def test_importing_the_package_imports_nothing_heavy():
    light = "heclip_lite, heclip_lite.data, heclip_lite.methods, heclip_lite.data.sections"
    code = f"import sys, {light}; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_model_code_runs_where_only_torch_timm_numpy_and_anndata_are():
    """On a bare GPU machine, scanpy and its kin may be missing."""
    code = (
        "import sys\n"
        "for name in ('scanpy', 'squidpy', 'spatialdata', 'matplotlib', 'seaborn', 'ipywidgets'):\n"
        "    sys.modules[name] = None\n"
        "from heclip_lite import losses, networks, retrieval, training\n"
        "from heclip_lite.features import encoders\n"
        "from heclip_lite.methods import heclip\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
