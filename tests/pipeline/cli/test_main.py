"""The entry point: help without anything heavy, exit codes, did you mean."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from pipeline.cli.discover import verbs
from pipeline.cli.main import run

HEAVY = {
    "torch",
    "transformers",
    "tvm",
    "onnxruntime",
    "onnx",
    "mlflow",
    "lm_eval",
    "sqlmodel",
    "fastapi",
    "numpy",
}

pytestmark = pytest.mark.smoke


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import json, sys\n"
        "from pipeline.cli.main import run\n"
        "sys.argv = ['rung', '--help']\n"
        "code = run()\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert not HEAVY & loaded
    for verb in verbs():
        assert f"  {verb} " in done.stdout


def test_an_unknown_verb_exits_2_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["matrx"]) == 2
    assert "did you mean `matrix`?" in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("rung ")


def test_wrong_usage_exits_2() -> None:
    assert run(["pull"]) == 2
    assert run(["pull", "--nope"]) == 2


def test_a_verb_whose_part_is_not_installed_says_so() -> None:
    code = (
        "import sys\n"
        "sys.modules['sqlalchemy'] = None\n"
        "from pipeline.cli.main import run\n"
        "sys.exit(run(['matrix', 'show']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "sqlalchemy" in done.stderr
    assert "hint: install" in done.stderr


SIGNALLED = """
import signal, sys
import typer
from pipeline.cli import main

number = int(sys.argv.pop())
# Those that started the tests may have them ignored: a shell for its background jobs, nohup.
signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
before = signal.getsignal(number)
main.app = typer.Typer(add_completion=False)

@main.app.command()
def work() -> None:
    try:
        signal.raise_signal(number)
    finally:
        print("cleaned")

code = main.run([])
assert signal.getsignal(number) == before
sys.exit(code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_that_cleans_up(number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(int(number))], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (128 + number, "cleaned\n"), done.stderr
    assert "run the same command to resume" in done.stderr
