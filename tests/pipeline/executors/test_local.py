"""The local executor beyond the contract of executors: what it says of a crash, and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.executors.interface import Failure, Finished, Work
from pipeline.executors.local import LocalExecutor
from pipeline.executors.scratch import remove_stale_scratch, stale_scratch
from pipeline.stages.export import ExportRequest
from registry.checkpoint import Checkpoint, FileEntry
from registry.digest import digest_bytes
from registry.store import Store
from tests.processes import is_gone, wait_for_pid

ZERO = digest_bytes(b"")
CHECKPOINT = Checkpoint(
    name="c",
    version="1",
    digest=ZERO,
    files=(FileEntry(path="config.json", digest=ZERO, size_bytes=2),),
    family="c",
    architecture="LlamaForCausalLM",
    parameters=1,
    licence="unknown",
    add_bos=False,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def executor(store: Store, tmp_path: Path, code: str) -> LocalExecutor:
    """An executor whose worker is `code`; `out(line)` writes to the event pipe."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, sys\ndef out(line): os.write(int(sys.argv[2]), (line + '\\n').encode())\n" + code,
        encoding="utf-8",
    )
    return LocalExecutor(store, scratch=tmp_path / "scratch", command=(sys.executable, str(script)))


def work(timeout_s: float = 30.0) -> Work:
    return Work("export c/1", ExportRequest(key=ZERO, checkpoint=CHECKPOINT), 1, timeout_s)


def run(store: Store, tmp_path: Path, code: str, timeout_s: float = 30.0) -> Finished | Failure:
    return executor(store, tmp_path, code).run(work(timeout_s), on_event=lambda event: None)


def test_a_segmentation_fault_is_a_failure_with_its_log(store: Store, tmp_path: Path) -> None:
    result = run(
        store, tmp_path, f"print('compiling', flush=True); os.kill(os.getpid(), {int(signal.SIGSEGV)})"
    )
    assert isinstance(result, Failure)
    assert "SIGSEGV" in result.message
    assert result.exit_code == 4
    assert result.log is not None
    assert store.read_bytes(result.log) == b"compiling\n"


def test_a_hang_is_stopped_with_its_children(store: Store, tmp_path: Path) -> None:
    code = f"""
import subprocess, time
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
open({str(tmp_path / "child")!r}, 'w').write(str(child.pid))
time.sleep(600)
"""
    result = run(store, tmp_path, code, timeout_s=2.0)
    assert isinstance(result, Failure)
    assert result.code == "timeout"
    assert is_gone(int((tmp_path / "child").read_text()))


def test_a_worker_that_finishes_and_then_fails_is_a_failure(store: Store, tmp_path: Path) -> None:
    result = run(store, tmp_path, 'out(\'{"event": "finish"}\'); sys.exit(3)')
    assert isinstance(result, Failure)
    assert "ended with 3" in result.message


def test_a_half_written_last_event_is_a_failure(store: Store, tmp_path: Path) -> None:
    result = run(store, tmp_path, 'os.write(int(sys.argv[2]), b\'{"event": "fin\')')
    assert isinstance(result, Failure)
    assert "ended with 0" in result.message


def test_an_error_of_the_request_keeps_its_code_and_hint(store: Store, tmp_path: Path) -> None:
    result = LocalExecutor(store, scratch=tmp_path / "scratch").run(work(), on_event=lambda event: None)
    assert isinstance(result, Failure)
    assert (result.code, result.exit_code) == ("not_found", 3)
    assert result.hint


def test_a_worker_whose_build_was_killed_before_it_could_ask_for_its_end_does_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "pipeline.executors.worker", str(tmp_path / "order.json"), str(writer)]
    os.close(reader)
    done = subprocess.run(command, pass_fds=(writer,), capture_output=True, text=True, timeout=100)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, ""), "the order, which is missing, is not read"


def test_the_worker_dies_with_a_build_that_is_killed(store: Store, tmp_path: Path) -> None:
    request = ExportRequest(key=ZERO, checkpoint=CHECKPOINT)
    build = tmp_path / "build.py"
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, time\nfrom pipeline.executors.worker import _die_with_parent\n_die_with_parent()\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    build.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from pipeline.executors.interface import Work\n"
        "from pipeline.executors.local import LocalExecutor\n"
        "from pipeline.stages.order import REQUEST\nfrom registry.store import Store\n"
        f"request = REQUEST.validate_json({request.model_dump_json()!r})\n"
        f"executor = LocalExecutor(Store(Path({str(store.root)!r})), "
        f"scratch=Path({str(tmp_path / 'scratch')!r}), command=(sys.executable, {str(worker)!r}))\n"
        "executor.run(Work('w', request, 1, 600.0), on_event=print)\n"
    )
    process = subprocess.Popen([sys.executable, str(build)])
    wait_for_pid(tmp_path / "pid")
    assert stale_scratch(tmp_path / "scratch") == []
    process.kill()
    process.wait()
    assert is_gone(int((tmp_path / "pid").read_text()))
    assert len(remove_stale_scratch(tmp_path / "scratch")) == 1
    assert list((tmp_path / "scratch").iterdir()) == []
