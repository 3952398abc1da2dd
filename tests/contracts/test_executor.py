"""The contract of an executor, held by each: what happens to work, and what is known of it afterwards."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.executors.interface import Executor, Failure, Finished, Work
from pipeline.executors.local import LocalExecutor
from pipeline.stages.events import Event, ProgressEvent
from pipeline.stages.export import ExportRequest
from registry.checkpoint import Checkpoint, FileEntry
from registry.digest import digest_bytes
from registry.store import Store
from tests.processes import is_gone, wait_for_pid

pytestmark = pytest.mark.timeout(300)

MAKERS = ["local", pytest.param("ray", marks=pytest.mark.slow)]
SMALL_OBJECTS = 100 << 20
LIMIT_BYTES = 300 << 20
PREAMBLE = """
import ctypes, os, signal, sys, time
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
def send(line): os.write(int(sys.argv[2]), (line + "\\n").encode())
"""
"""Of a worker: `send` writes an event; like the real worker it dies with its parent."""

Make = Callable[[str], Executor]
"""From the code of a worker to an executor that runs it."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of one node."""
    ray = pytest.importorskip("ray", reason="`ray` is not installed")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": SMALL_OBJECTS})
    made.wait_for_nodes()
    yield made.address
    ray.shutdown()
    made.shutdown()


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest, store: Store, tmp_path: Path) -> Make:
    script, scratch = tmp_path / "worker.py", tmp_path / "scratch"
    command = (sys.executable, str(script))
    address = request.getfixturevalue("cluster") if request.param == "ray" else None

    def executor(code: str) -> Executor:
        script.write_text(PREAMBLE + code, encoding="utf-8")
        if address is None:
            return LocalExecutor(store, scratch=scratch, memory_bytes=LIMIT_BYTES, command=command)
        from pipeline.executors.ray import RayExecutor

        return RayExecutor(store, scratch=scratch, address=address, memory_bytes=LIMIT_BYTES, command=command)

    return executor


def work(timeout_s: float = 60.0) -> Work:
    nothing = digest_bytes(b"")
    checkpoint = Checkpoint(
        name="c",
        version="1",
        digest=nothing,
        files=(FileEntry(path="config.json", digest=nothing, size_bytes=2),),
        family="c",
        architecture="LlamaForCausalLM",
        parameters=1,
        licence="unknown",
        add_bos=False,
    )
    return Work("export c/1", ExportRequest(key=nothing, checkpoint=checkpoint), 1, timeout_s)


def run(executor: Executor, timeout_s: float = 60.0) -> Finished | Failure:
    return executor.run(work(timeout_s), on_event=lambda event: None)


def test_finished_work_delivers_its_events_in_order_in_the_calling_thread(make: Make) -> None:
    events: list[Event] = []
    threads: set[int] = set()

    def take(event: Event) -> None:
        events.append(event)
        threads.add(threading.get_ident())

    code = "\n".join(f'send(\'{{"event": "progress", "text": "{i}"}}\')' for i in range(20))
    finished = make(code + '\nsend(\'{"event": "finish"}\')').run(work(), on_event=take)
    assert isinstance(finished, Finished)
    assert [event.text for event in events if isinstance(event, ProgressEvent)] == [str(i) for i in range(20)]
    assert threads == {threading.get_ident()}


def test_an_error_of_the_work_keeps_its_code_hint_and_exit_code(make: Make) -> None:
    event = '{"event": "error", "code": "build", "message": "it broke", "hint": "mend it", "exit_code": 4}'
    failure = run(make(f"send('{event}'); sys.exit(4)"))
    assert isinstance(failure, Failure)
    assert (failure.code, failure.message, failure.hint, failure.exit_code) == (
        "build",
        "it broke",
        "mend it",
        4,
    )


def test_a_crash_is_a_failure_with_its_log(make: Make, store: Store) -> None:
    failure = run(make(f"print('compiling', flush=True); os.kill(os.getpid(), {int(signal.SIGSEGV)})"))
    assert isinstance(failure, Failure)
    assert (failure.code, failure.exit_code) == ("crash", 4)
    assert failure.log is not None
    assert store.read_bytes(failure.log) == b"compiling\n"


def test_an_end_without_a_last_event_is_a_failure(make: Make) -> None:
    assert isinstance(run(make("pass")), Failure)


def test_an_event_in_a_form_that_does_not_exist_is_a_failure_that_quotes_it(make: Make) -> None:
    failure = run(make('send(\'{"event": "done"}\')'))
    assert isinstance(failure, Failure)
    assert failure.code == "protocol"
    assert '{"event": "done"}' in failure.message


def test_a_worker_killed_inside_a_character_is_a_failure(make: Make) -> None:
    failure = run(make('os.write(int(sys.argv[-1]), b\'{"event": "progress", "text": "\\xc3\'); os._exit(9)'))
    assert isinstance(failure, Failure)
    assert failure.code == "crash"


def test_a_hang_is_stopped_at_its_time_limit(make: Make) -> None:
    failure = run(make("time.sleep(600)"), timeout_s=2.0)
    assert isinstance(failure, Failure)
    assert failure.code == "timeout"


def test_work_that_takes_more_memory_than_it_may_is_stopped(make: Make) -> None:
    failure = run(make(f"held = bytearray({2 * LIMIT_BYTES}); time.sleep(600)"))
    assert isinstance(failure, Failure)
    assert failure.code == "memory"


def test_stop_kills_running_work(make: Make, tmp_path: Path) -> None:
    executor = make(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    results: list[Finished | Failure] = []
    thread = threading.Thread(target=lambda: results.append(run(executor, timeout_s=600.0)))
    thread.start()
    pid = wait_for_pid(tmp_path / "pid")
    executor.stop()
    thread.join(60)
    assert isinstance(results[0], Failure)
    assert is_gone(pid)


def test_a_toolchain_that_is_not_known_is_refused(make: Make) -> None:
    from registry.errors import RungError

    with pytest.raises(RungError):
        make("pass").toolchain_version("nothing")


def test_nothing_is_left_in_the_scratch_directory(make: Make, tmp_path: Path) -> None:
    run(make('send(\'{"event": "finish"}\')'))
    run(make("pass"))
    assert list((tmp_path / "scratch").iterdir()) == []
