"""The matrix as HTML: complete, self-contained, and no text of it is markup."""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrices.releases.ruling import Ruling
from matrices.views.web_page import matrix_html

VOID = {"meta", "br"}
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><script>alert(1)</script>",
    "</title><iframe src=//x>",
    "' onmouseover='alert(1)",
    "\x1b]8;;http://x\x07link",
    "\u202egnp.exe",
    "&lt;b&gt;",
)


class Page(HTMLParser):
    """What a browser makes of a document: elements, attributes and text; complains of wrong nesting."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(tag, tuple(attributes)) for tag, attributes in self.elements]


def ruled(cell, *, why: str = "good", waiver: str | None = None) -> dict[str, Ruling]:
    ruling = Ruling(
        cell=cell.id, verb="approve", who="Ada", why=why, at=datetime(2026, 11, 23, tzinfo=UTC),
        artifact=cell.artifact, waiver=waiver,
    )  # fmt: skip
    return {cell.id: ruling}


def test_every_cell_has_its_state_tiers_size_evidence_and_why_it_is_not_approved(new_cell):
    good = new_cell()
    bad = new_cell("demo/2", state="failed", reason="segfault in pass 7")
    page = Page(matrix_html([good, bad], rulings=ruled(good), at=datetime(2026, 11, 24, tzinfo=UTC)))
    for said in (
        good.id, bad.id, "segfault in pass 7", good.artifact, "approve by Ada", "missing for approval",
        "as of 2026-11-24 00:00Z", "on a chip with", "KL 6.00e-04", "extraction",
    ):  # fmt: skip
        assert said in page.text, said
    targets = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    places = {f"#{attributes['id']}" for _, attributes in page.elements if "id" in attributes}
    assert targets == places
    assert len(targets) == 2


def test_the_page_loads_nothing_and_runs_nothing(new_cell):
    text = matrix_html([new_cell()])
    page = Page(text)
    assert {tag for tag, _ in page.elements} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "table", "thead", "tbody",
        "tr", "th", "td", "br", "a", "b", "span", "ul", "li", "details", "summary", "dl", "dt", "dd", "code",
    }  # fmt: skip
    assert not any(name.startswith("on") or name == "src" for _, names in page.shape() for name in names)
    assert "url(" not in text
    assert "@import" not in text
    policy = next(
        a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert str(policy).startswith("default-src 'none'")


def test_an_empty_matrix_is_a_page_too():
    assert "0 cells" in Page(matrix_html([])).text


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_the_matrix_becomes_markup(new_cell, text):
    plain, hostile = (
        matrix_html([cell], rulings=ruled(cell, why=one, waiver=one))
        for one in ("harmless", text)
        for cell in [new_cell(state="evaluated", reason=one).model_copy(update={"state": "approved"})]
    )
    assert Page(hostile).shape() == Page(plain).shape()
    assert "\x1b" not in hostile
    assert "\u202e" not in hostile


@given(text=st.text(max_size=40))
def test_names_of_any_characters_keep_the_document_whole(new_cell, text):
    cell = new_cell().model_copy(update={"checkpoint": text, "family": text, "target": text, "recipe": text})
    plain = new_cell().model_copy(update={"checkpoint": "x", "family": "x", "target": "x", "recipe": "x"})
    assert Page(matrix_html([cell])).shape() == Page(matrix_html([plain])).shape()
