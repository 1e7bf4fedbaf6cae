"""Set up the project's own Python environment: ``.venv`` with everything ``requirements.txt`` pins.

Run it with any Python 3; it needs nothing but the standard library.
The second call finds its stamp and does nothing.
The syntax stays old on purpose: a Python that is too old must get as far as saying so.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OLDEST = (3, 11)
# Tried where python3 itself is too old.
COMMANDS = ["python3.14", "python3.13", "python3.12", "python3.11"]
# Installed size, downloads and unpacking; on Linux PyTorch brings the CUDA libraries with it.
GIGABYTES = 12 if sys.platform.startswith("linux") else 5
STAMP = "heclip-lite.json"  # in .venv: written when the installation is complete
UNFINISHED = "heclip-lite.unfinished"  # in .venv: there while an installation runs
SHOWN = ("Collecting", "Processing", "  Downloading", "Installing", "Building")
DULL = ("WARNING", "Requirement already", "Ignoring", "Looking in")  # no news from pip


class SetupError(Exception):
    """Something the reader has to mend before the installation can go on."""


def check_version(version):
    """Raise where `version`, a tuple such as ``(3, 9, 6)``, is too old."""
    if tuple(version[:2]) < OLDEST:
        raise SetupError(
            "This needs Python {}.{} or newer, and found Python {}.\n"
            "Get one from https://www.python.org/downloads/ or from your package manager\n"
            "(apt install python3.11 python3.11-venv, or brew install python@3.12),\n"
            "or use conda with environment.yml. Then run the same command again, naming it if\n"
            "need be: make book PYTHON=python3.12".format(*OLDEST, ".".join(map(str, version)))
        )


def find_newer(commands=None):
    """Path of a Python on PATH that is new enough, or None."""
    for command in commands or COMMANDS:
        found = shutil.which(command)
        if found is None:
            continue
        test = "import sys; sys.exit(sys.version_info < {})".format(OLDEST)
        if subprocess.run([found, "-c", test], stderr=subprocess.DEVNULL).returncode == 0:
            return found
    return None


def check_venv(has_module=None):
    """Raise where this Python cannot make an environment (Debian ships ``venv`` apart)."""
    has_module = has_module or _has_module
    missing = [name for name in ("venv", "ensurepip") if not has_module(name)]
    if missing:
        raise SetupError(
            "This Python ({}) lacks the module {}, which makes environments.\n"
            "On Debian or Ubuntu: sudo apt install python3-venv python{}.{}-venv\n"
            "Then run the same command again.".format(
                sys.executable, " and ".join(missing), *sys.version_info[:2]
            )
        )


def check_machine(system=None, machine=None):
    """Raise on a machine that PyTorch no longer builds for."""
    if (system or platform.system(), machine or platform.machine()) == ("Darwin", "x86_64"):
        raise SetupError(
            "PyTorch is no longer built for Macs with an Intel processor (or this Python is an\n"
            "Intel build on an Apple processor: then install an arm64 Python).\n"
            "Use the Colab or Binder buttons of the book instead."
        )


def check_disk(free_bytes=None):
    """Raise where the disk has no room for the environment."""
    free = (shutil.disk_usage(str(ROOT)).free if free_bytes is None else free_bytes) / 1e9
    if free < GIGABYTES:
        raise SetupError(
            "The installation needs {} GB of free disk, and {} has {:.1f} GB.\n"
            "Most of it is PyTorch. Make room, then run the same command again.".format(
                GIGABYTES, ROOT, free
            )
        )


def environment_key():
    """Hash of what decides the environment's content."""
    digest = hashlib.sha256()
    for name in ("requirements.txt", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def is_complete(folder, key):
    """Whether `folder` holds the finished environment that `key` names."""
    stamp = folder / STAMP
    if (folder / UNFINISHED).exists() or not stamp.exists() or not venv_python(folder).exists():
        return False
    return json.loads(stamp.read_text()).get("key") == key


def venv_python(folder):
    """Path of the Python inside the environment `folder`."""
    windows = os.name == "nt"
    return folder / ("Scripts" if windows else "bin") / ("python.exe" if windows else "python")


def pip(folder, arguments, command=None):
    """Run the environment's pip with one line of progress; raise with what to do where it fails."""
    command = command or [str(venv_python(folder)), "-m", "pip", "install", "--progress-bar=off"]
    lines = []
    with subprocess.Popen(
        command + arguments,
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    ) as process:
        for line in process.stdout:
            lines.append(line)
            if sys.stdout.isatty() and line.startswith(SHOWN):
                print("\r{:<78}".format(line.strip()[:78]), end="", flush=True)
    if sys.stdout.isatty():
        print("\r{:<78}\r".format(""), end="", flush=True)
    if process.returncode != 0:
        raise SetupError(
            "{}\npip could not install everything; the end of its own message stands above.\n"
            "Most often the network or the package index cannot be reached: check the connection,\n"
            "a proxy (HTTPS_PROXY) or a mirror (pip config set global.index-url ...).\n"
            "'No space left on device' means the disk or the folder for temporary files is full.\n"
            "Run the same command again afterwards: what is half-done is made anew.".format(
                "".join([line for line in lines if not line.startswith(DULL)][-15:])
            )
        )


def install(folder, key):
    """Make the environment, or bring it up to date, and stamp it.

    An environment made by hand is adopted: pip finds it complete and installs nothing.
    One whose installation was interrupted is made anew.
    """
    interrupted = (folder / UNFINISHED).exists()
    if interrupted or not venv_python(folder).exists():
        check_disk()
        print("Making the environment {} ...".format(folder), flush=True)
        clear = ["--clear"] if folder.exists() else []
        if subprocess.call([sys.executable, "-m", "venv", str(folder)] + clear) != 0:
            raise SetupError("The environment could not be made; see the message above.")
    (folder / UNFINISHED).touch()
    print("Installing the pinned packages; the first time it takes minutes ...", flush=True)
    try:
        pip(folder, ["-r", "requirements.txt"])
        # The build tools are pinned too, so that this step needs no network of its own.
        pip(folder, ["--no-deps", "--no-build-isolation", "-e", "."])
    except SetupError:
        if (folder / STAMP).exists():  # an update that could not begin: what was there still works
            (folder / UNFINISHED).unlink()
        raise
    unfinished = folder / (STAMP + ".new")  # the stamp itself is there whole or not at all
    unfinished.write_text(json.dumps({"key": key, "python": platform.python_version()}))
    os.replace(str(unfinished), str(folder / STAMP))
    (folder / UNFINISHED).unlink()


def main():
    """Find a Python that is new enough, then see to the environment."""
    try:
        if sys.version_info < OLDEST and find_newer():
            return subprocess.call([find_newer(), __file__])
        check_version(sys.version_info[:3])
        folder, key = ROOT / ".venv", environment_key()
        if is_complete(folder, key):
            return 0
        check_venv()
        check_machine()
        install(folder, key)
        print("The environment is ready.", flush=True)
        return 0
    except SetupError as error:
        print("\n" + str(error), file=sys.stderr)
        return 1


def _has_module(name):
    try:
        __import__(name)
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
