"""Nothing in the book needs a network: it is executed and built where there is none."""

from __future__ import annotations

import http.server
import importlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
ASK = """
import socket
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=10).close()
    print("reached")
except OSError as error:
    print("refused:", error)
"""


@pytest.fixture
def tool():
    """A build tool by its name, as a module."""
    return lambda name: importlib.import_module(f"book.tools.build.{name}")


@pytest.fixture(scope="module")
def outside():
    """Port of a server of this machine, which stands for all that is outside."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def python(code: str, *before: str) -> str:
    done = subprocess.run([*before, sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_server_is_out_of_reach_without_a_network(outside, without_network):
    ask = ASK.format(port=outside)
    assert python(ask) == "reached", "the question itself must work"
    assert python(ask, *without_network).startswith("refused")


def test_no_route_leads_out_and_the_loopback_works(without_network):
    code = f"""
import socket, sys
sys.path.insert(0, {str(ROOT)!r})
from book.tools.build import offline
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname(), timeout=10).close()
print(offline.route_out(), [name for _, name in socket.if_nameindex() if name == "lo"])
"""
    assert python(code, *without_network) == "False ['lo']"


def test_the_exit_status_is_that_of_the_command(without_network):
    ends = [*without_network, sys.executable, "-c", "raise SystemExit(7)"]
    assert subprocess.run(ends).returncode == 7
    missing = subprocess.run([*without_network, "no-such-command"], capture_output=True, text=True)
    assert missing.returncode == 127
    assert "no-such-command" in missing.stderr and "Traceback" not in missing.stderr


def test_a_refusal_of_the_system_is_said_and_the_command_not_run(tool, monkeypatch, capsys):
    offline = tool("offline")

    def refuse(what: int) -> None:
        raise PermissionError(1, "unshare: Operation not permitted")

    monkeypatch.setattr(offline, "_unshare", refuse)
    monkeypatch.setattr(offline.os, "execvp", lambda *command: pytest.fail("the command was run"))
    monkeypatch.setattr(sys, "argv", ["offline.py", "true"])
    assert offline.main() == 125
    assert "no way to leave the network" in capsys.readouterr().err


def test_an_offline_build_refuses_a_route_out(tool, monkeypatch, capsys):
    build_book = tool("build_book")
    monkeypatch.setattr(build_book.offline, "route_out", lambda: True)
    monkeypatch.setattr(build_book, "run_all", lambda *_, **__: pytest.fail("work was begun"))
    monkeypatch.setattr(sys, "argv", ["build_book.py", "--offline"])
    assert build_book.main() == 1
    assert "no route may lead out" in capsys.readouterr().err


@pytest.mark.parametrize(("made_offline", "again"), [(True, False), (False, True), (None, True)])
def test_an_execution_in_reach_of_a_network_is_no_proof(made_offline, again, tool, monkeypatch):
    run_notebooks = tool("run_notebooks")
    record = {"fresh": True, "finished": "before", "seconds": 1.0}
    if made_offline is not None:  # a record of an older build says nothing of it
        record["offline"] = made_offline
    executed = []
    monkeypatch.setattr(run_notebooks, "read_record", lambda *_: record)
    monkeypatch.setattr(run_notebooks, "result_files", lambda *_: [])
    monkeypatch.setattr(
        run_notebooks, "execute", lambda notebook, *_: executed.append(notebook) or record
    )
    run_notebooks.run_all("synthetic", "fast")
    assert not executed, "without the wish for a proof it counts"
    run_notebooks.run_all("synthetic", "fast", only_offline=True)
    assert bool(executed) == again


@pytest.mark.slow
@pytest.mark.offline
def test_a_kernel_inherits_that_there_is_no_network(outside, without_network, tmp_path):
    cell = nbformat.v4.new_code_cell(ASK.format(port=outside))
    notebook = nbformat.v4.new_notebook(
        cells=[cell], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    nbformat.write(notebook, tmp_path / "in.ipynb")
    code = "import sys, papermill; papermill.execute_notebook(*sys.argv[1:], progress_bar=False)"
    paths = [str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb")]
    for before, answer in (([], "reached"), (without_network, "refused")):
        command = [*before, sys.executable, "-W", "ignore", "-c", code, *paths]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (output,) = nbformat.read(paths[1], as_version=4).cells[0].outputs
        assert output.text.startswith(answer)


@pytest.mark.slow
@pytest.mark.offline
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapter_was_executed_without_a_network(path, without_network, executed, tool):
    record = tool("run_notebooks").read_record(path, "synthetic", "fast")
    assert record["fresh"], "this record is of another source"
    assert record["offline"] is True


@pytest.mark.slow
@pytest.mark.offline
def test_the_site_was_built_without_a_network(without_network, site):
    record = json.loads((site.with_suffix(".json")).read_text(encoding="utf-8"))
    assert record["offline"] is True
