"""The import closure: what is followed, what is not, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipeline.stages.closure import import_closure
from registry.errors import NotFoundError


def tree(root: Path, **files: str) -> Path:
    """Modules of the package `registry` below `root`."""
    package = root / "registry"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    for name, text in files.items():
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    return root


def names(root: Path, *entries: str) -> set[str]:
    return {Path(name).stem for name in import_closure(*entries, root=root)} - {"__init__"}


def test_imports_are_followed_through_other_modules(tmp_path: Path) -> None:
    root = tree(tmp_path, a="from registry.b import x", b="import registry.c", c="", d="")
    assert names(root, "registry.a") == {"a", "b", "c"}


def test_an_import_inside_a_function_counts(tmp_path: Path) -> None:
    assert names(tree(tmp_path, a="def f():\n    from registry import b", b=""), "registry.a") == {"a", "b"}


def test_a_relative_import_counts(tmp_path: Path) -> None:
    assert names(tree(tmp_path, a="from . import b\nfrom .c import d", b="", c=""), "registry.a") == {
        "a",
        "b",
        "c",
    }


def test_an_import_for_type_checkers_alone_does_not_count(tmp_path: Path) -> None:
    text = "if TYPE_CHECKING:\n    import registry.b\nelse:\n    import registry.c"
    assert names(tree(tmp_path, a=text, b="", c=""), "registry.a") == {"a", "c"}


def test_a_module_that_is_started_as_a_process_counts(tmp_path: Path) -> None:
    assert names(tree(tmp_path, a='command = ["-m", "registry.b"]', b=""), "registry.a") == {"a", "b"}


def test_a_lazy_table_does_not_count(tmp_path: Path) -> None:
    assert names(tree(tmp_path, a='TABLE = {"b": "registry.b:B"}', b=""), "registry.a") == {"a"}


def test_packages_above_a_module_count(tmp_path: Path) -> None:
    root = tree(tmp_path, a="")
    assert set(import_closure("registry.a", root=root)) == {"registry/__init__.py", "registry/a.py"}


def test_a_data_file_that_a_module_reads_counts(tmp_path: Path) -> None:
    root = tree(tmp_path, a='resources.files("registry").joinpath("table.toml").read_text()')
    (root / "registry" / "table.toml").write_text("", encoding="utf-8")
    assert "registry/table.toml" in import_closure("registry.a", root=root)


def test_modules_that_import_each_other_are_found_once(tmp_path: Path) -> None:
    root = tree(tmp_path, a="import registry.b", b="import registry.a")
    assert names(root, "registry.a") == {"a", "b"}


def test_an_unknown_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"registry\.nothing"):
        import_closure("registry.nothing", root=tree(tmp_path))


def test_a_package_of_another_distribution_is_followed_where_an_entry_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "other_backend"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "lower.py").write_text("import other_backend.code", encoding="utf-8")
    (package / "code.py").write_text("import registry.recipe", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = import_closure("other_backend.lower")
    assert {"other_backend/code.py", "registry/recipe.py"} <= set(found)


def test_what_sources_mention_is_kept_by_their_digests_and_a_damaged_file_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = "import registry.other\n"
    root = tree(tmp_path, one=source, other="")
    caches = [tmp_path / name for name in ("first", "emptied", "damaged")]

    def closure_with(cache: Path) -> set[str]:
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        return names(root, "registry.one")

    assert closure_with(caches[0]) == {"one", "other"}
    [kept] = (caches[0] / "rung").iterdir()
    mentions = json.loads(kept.read_text())
    mentions[hashlib.sha256(source.encode()).hexdigest()]["names"] = []
    for cache, text in zip(caches[1:], [json.dumps(mentions), '{"not a digest": 1'], strict=True):
        (cache / "rung").mkdir(parents=True)
        (cache / "rung" / kept.name).write_text(text)
    assert closure_with(caches[1]) == {"one"}
    assert closure_with(caches[2]) == {"one", "other"}
