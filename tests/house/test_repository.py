"""The repository as a newcomer finds it: pins, set-up messages, addresses, style."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zlib
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from book.tools.measure import faults

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


def load_bootstrap():
    path = ROOT / "book" / "tools" / "bootstrap.py"
    spec = importlib.util.spec_from_file_location("bootstrap", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bootstrap = load_bootstrap()


def project_files() -> list[Path]:
    """Files of the project: what git tracks or would add."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, "these tests need the git checkout: clone it, do not copy it"
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


# Pins


def test_requirements_are_plain_pins():
    pin = re.compile(r"[a-z0-9][a-z0-9._-]*==[0-9][a-z0-9.+!]*( ; (?P<marker>.+))?")
    for line in REQUIREMENTS:
        match = pin.fullmatch(line)
        assert match, f"not name==version[ ; marker]: {line}"
        if match["marker"]:
            Marker(match["marker"])


def test_torch_and_torchvision_are_one_pair_everywhere():
    lines = [line for line in REQUIREMENTS if re.match(r"(torch|torchvision)==", line)]
    versions = dict(line.split("==") for line in lines)
    assert sorted(versions) == ["torch", "torchvision"], "one pin each, without markers"
    assert "+" not in "".join(lines), "a build for one device does not fit the other machines"
    # torchvision 0.N goes with torch 2.(N-14): 0.19 with 2.4, 0.29 with 2.15.
    minor = [int(versions[name].split(".")[1]) for name in ("torch", "torchvision")]
    assert minor[1] == minor[0] + 14


@pytest.mark.parametrize("python", ["3.11.7", "3.13.0"])
def test_every_dependency_is_pinned_within_its_range(python):
    environment = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
    pins = {}
    for line in REQUIREMENTS:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            pins[canonicalize_name(requirement.name)] = next(iter(requirement.specifier)).version
    extras = PROJECT["project"]["optional-dependencies"]
    for text in [*PROJECT["project"]["dependencies"], *extras["book"], *extras["dev"]]:
        wanted = Requirement(text)
        version = pins.get(canonicalize_name(wanted.name))
        assert version, f"{wanted.name} is not pinned: run make lock"
        assert wanted.specifier.contains(version), f"{wanted.name}=={version} is outside {text}"


def test_conda_environment_installs_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip = next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    assert pip[0] == "-r requirements.txt"


def test_binder_leaves_out_only_torch_and_its_libraries():
    text = (ROOT / ".binder" / "postBuild").read_text(encoding="utf-8")
    left_out = re.compile(re.search(r"grep -vE '(.+?)'", text)[1])
    names = {re.split(r"==", line)[0] for line in REQUIREMENTS if left_out.match(line)}
    assert {"torch", "torchvision", "triton"} <= names
    assert all(re.match(r"torch|triton$|nvidia-|cuda-", name) for name in names)


# Commands


@pytest.mark.parametrize(
    "target",
    "help setup book lab student slides test test-all benchmark-speed lint lock clean "
    "clean-all".split(),
)
def test_makefile_has_target(target):
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", text, re.MULTILINE)
    assert re.search(rf"^\.PHONY:.*\b{target}\b", text, re.MULTILINE)


NAMING = ["Makefile", "README.md", "CONTRIBUTING.md", "book/**/*.md", "book/tools/**/*.py"]
NAMING += ["_config.yml", ".github/**/*", ".binder/*", ".ci/*", "notebooks/*.ipynb"]


def scripts(text: str) -> set[Path]:
    """Files that a text starts, or names: by path, on Windows too, or as a module."""
    paths = re.findall(r"\b(?:book|tests|notebooks|heclip_lite)(?:[/\\][\w-]+)+\.py\b", text)
    modules = re.findall(r"-m (book\.tools[\w.]*\w|heclip_\w+[\w.]*)", text)
    started = {Path(name.replace(".", "/") + ".py") for name in modules}
    return started | {Path(path.replace("\\", "/")) for path in paths}


@pytest.mark.parametrize(
    "path",
    [p for name in NAMING for p in sorted(ROOT.glob(name)) if p.is_file()],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_every_script_that_is_named_exists(path):
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    assert not [name for name in scripts(text) if not (ROOT / name).is_file()]


def test_scripts_are_found_in_what_names_them():
    """So that the test above cannot pass by seeing nothing."""
    seen = {name: scripts((ROOT / name).read_text(encoding="utf-8")) for name in ("README.md",)}
    seen["gpu"] = scripts((ROOT / ".github/workflows/gpu.yml").read_text(encoding="utf-8"))
    seen["Makefile"] = scripts((ROOT / "Makefile").read_text(encoding="utf-8"))
    assert {p.name for p in seen["README.md"]} >= {"bootstrap.py", "build_book.py", "lab.py"}
    assert {p.name for p in seen["gpu"]} == {"check_results.py"}
    assert len(seen["Makefile"]) > 15


def test_wheel_and_sdist_hold_the_package_and_the_classroom(tmp_path):
    """Installed in an empty place, both read a quiz and a registry from there."""
    hatch = [sys.executable, "-m", "hatchling", "build", "-d"]
    made = tmp_path / "made"
    subprocess.run([*hatch, str(made), "-t", "wheel", "-t", "sdist"], cwd=ROOT, check=True)
    (archive,) = made.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    subprocess.run([*hatch, str(tmp_path / "again"), "-t", "wheel"], cwd=source, check=True)
    code = (
        "import heclip_course, heclip_lite\n"
        "from heclip_course import quiz\n"
        "from heclip_lite.data import datasets\n"
        "print(heclip_course.__file__, heclip_lite.__file__, sep='\\n')\n"
        "print(len(quiz.chapters()), len(quiz.load('01')), len(datasets.files()))\n"
    )
    said = []
    for number, folder in enumerate((made, tmp_path / "again")):
        (wheel,) = folder.glob("*.whl")
        place = tmp_path / f"place{number}"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*pip, "--target", str(place), str(wheel)], check=True)
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(place)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        *files, counts = done.stdout.splitlines()
        assert all(Path(file).is_relative_to(place) for file in files)
        said.append(counts.split())
        assert {path.name for path in place.iterdir()} >= {"heclip_course", "heclip_lite"}
        assert not [name for name in ("tools", "results", "api") if (place / name).exists()]
    chapters = len(list((ROOT / "notebooks").glob("[0-9]*.ipynb")))
    assert said[0] == said[1] and int(said[0][0]) == chapters and int(said[0][1]) > 2


def test_an_editable_install_shows_the_two_packages_only():
    code = (
        "from importlib.util import find_spec\n"
        "print([n for n in ('heclip_lite', 'heclip_course', 'tools', 'api') if find_spec(n)])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "['heclip_lite', 'heclip_course']", done.stderr


FAULTS = tomllib.loads((ROOT / "tests" / "faults.toml").read_text(encoding="utf-8"))["fault"]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault["what"] for fault in FAULTS])
def test_every_fault_that_is_planted_has_its_place(fault):
    path = faults.place_of(ROOT, fault["old"])
    assert fault["old"] != fault["new"]
    ast.parse(path.read_text(encoding="utf-8").replace(fault["old"], fault["new"]))
    assert fault["room"].split("/")[0] in ("core", "course", *path.parts)


def test_lint_is_clean():
    notebooks = sorted(map(str, (ROOT / "notebooks").glob("*.ipynb")))
    for tool in (
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["codespell_lib"],
        ["nbstripout", "--keep-id", "--verify", *notebooks],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(tool)}:\n{done.stdout}{done.stderr}"


# Set-up: each thing a fresh machine can lack gives its own message


def test_bootstrap_parses_on_a_python_too_old_to_run_the_project():
    source = (ROOT / "book" / "tools" / "bootstrap.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 6))
    assert "from __future__ import annotations" not in source  # unknown to Python 3.6


def test_too_old_python_is_named_with_the_remedy():
    with pytest.raises(bootstrap.SetupError, match=r"3\.11 or newer, and found Python 3\.9\.6"):
        bootstrap.check_version((3, 9, 6))
    bootstrap.check_version((3, 11, 0))
    bootstrap.check_version((3, 14, 1))


def test_newer_python_is_found_only_if_it_runs(tmp_path, monkeypatch):
    broken, old = tmp_path / "python3.13", tmp_path / "python3.12"
    for path in (broken, old):
        path.write_text("#!/bin/sh\nexit 1\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bootstrap.find_newer() is None
    good = tmp_path / "python3.11"
    good.write_text("#!/bin/sh\nexit 0\n")
    good.chmod(0o755)
    assert bootstrap.find_newer() == str(good)


def test_missing_venv_names_the_package_to_install():
    with pytest.raises(bootstrap.SetupError, match="apt install python3-venv"):
        bootstrap.check_venv(has_module=lambda name: name != "ensurepip")
    bootstrap.check_venv(has_module=lambda name: True)


def test_intel_mac_is_refused_before_the_download():
    with pytest.raises(bootstrap.SetupError, match="Intel"):
        bootstrap.check_machine("Darwin", "x86_64")
    bootstrap.check_machine("Darwin", "arm64")
    bootstrap.check_machine("Linux", "x86_64")


def test_full_disk_is_named_with_what_is_needed():
    with pytest.raises(bootstrap.SetupError, match=r"has 1\.0 GB"):
        bootstrap.check_disk(free_bytes=1e9)
    bootstrap.check_disk(free_bytes=100e9)


def test_failing_pip_says_what_to_do(tmp_path):
    failing = [sys.executable, "-c", "print('No route to host'); raise SystemExit(1)"]
    with pytest.raises(bootstrap.SetupError, match=r"No route to host\n[^$]*check the connection"):
        bootstrap.pip(tmp_path, [], command=failing)
    bootstrap.pip(tmp_path, [], command=[sys.executable, "-c", "print('Collecting numpy')"])


def test_set_up_is_done_once_and_again_after_a_change_or_an_interruption(tmp_path):
    python = bootstrap.venv_python(tmp_path)
    python.parent.mkdir()
    python.touch()
    assert not bootstrap.is_complete(tmp_path, "key"), "no stamp"
    (tmp_path / bootstrap.STAMP).write_text(json.dumps({"key": "key"}))
    assert bootstrap.is_complete(tmp_path, "key")
    assert not bootstrap.is_complete(tmp_path, "other key"), "requirements have changed"
    (tmp_path / bootstrap.UNFINISHED).touch()
    assert not bootstrap.is_complete(tmp_path, "key"), "an installation was interrupted"
    (tmp_path / bootstrap.UNFINISHED).unlink()
    python.unlink()
    assert not bootstrap.is_complete(tmp_path, "key"), "its Python is gone"


def test_environment_key_follows_the_pins(tmp_path, monkeypatch):
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    before = bootstrap.environment_key()
    (tmp_path / "requirements.txt").write_text("numpy==2.0.0\n")
    assert bootstrap.environment_key() != before


# Addresses and secrets


def test_one_address_of_the_repository():
    address = CONFIG["repository"]["url"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["repository-code"] == address
    installs = r"git\+(https://[\w./-]+)"
    for path in [*ROOT.glob("notebooks/*.ipynb"), ROOT / "README.md", *ROOT.glob("book/*.md")]:
        for found in re.findall(installs, path.read_text(encoding="utf-8")):
            assert found.removesuffix(".git") == address, path.name


def test_citation_agrees_with_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"] == "MIT"


def test_no_secrets_and_no_paths_of_one_machine():
    forbidden = re.compile(
        r"\b(hf_|ghp_|gho_|github_pat_|sk-|AKIA)[A-Za-z0-9_]{16,}"
        r"|-----BEGIN [A-Z ]*PRIVATE KEY"
        r"|://[^/\s:@]+:[^/\s@]+@"
        r"|(?<![\w.])/(root|home|Users)/[a-z]\w*"
    )
    for path in project_files():
        if path.suffix in {".npz", ".npy", ".png", ".gz", ".safetensors"}:
            continue
        match = forbidden.search(path.read_text(encoding="utf-8"))
        assert match is None, f"{path.relative_to(ROOT)}: {match[0]}"


def test_no_large_files():
    for path in project_files():
        stored = len(zlib.compress(path.read_bytes()))  # as git keeps it: tables shrink a lot
        assert stored < 2**20, f"{path.relative_to(ROOT)} is over 1 MB, compressed"


def test_workflows_pin_actions_and_ask_for_little():
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        text = path.read_text(encoding="utf-8")
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] == {"contents": "read"}, path.name
        assert "concurrency" in workflow, path.name
        for line in re.findall(r"uses: (.+)", text):
            pinned = re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)
            assert pinned, f"{path.name}: {line}"
        assert all("timeout-minutes" in job for job in workflow["jobs"].values()), path.name


def test_imports_are_light():
    heavy = ["torch", "scanpy", "squidpy", "spatialdata", "matplotlib"]
    code = f"import sys, heclip_lite; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
