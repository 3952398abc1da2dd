import httpx
import pytest
from starlette.datastructures import Headers

from serving.contract.problems import RequestError
from serving.http.access import Access, check_content_type, check_encoding
from tests.serving.support import running

BODY = b'{"model": "tiny", "prompt": "x", "max_tokens": 1}'


def is_answered(access, **headers):
    try:
        access.check(Headers(headers))
    except RequestError:
        return False
    return True


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8421",
        "localhost.",
        "127.0.0.1:1",
        "127.9.9.9",
        "[::1]:8421",
        "a.localhost",
        "node",
    ],
)
def test_loopback_answers_to_names_that_no_page_can_have(host):
    for address in ("127.0.0.1", "::1", "127.0.0.2"):
        assert is_answered(Access.of(address), host=host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8421",
        "evil.example:127.0.0.1",
        "10.0.0.7",
        "[2001:db8::1]",
        "0.0.0.0",
        "user@localhost",
        "localhost/evil.example",
        "",
        "[",
        "evil。example",
    ],
)
def test_loopback_refuses_a_name_that_was_pointed_to_it(host):
    headers = Headers(raw=[(b"host", host.encode())])
    with pytest.raises(RequestError) as caught:
        Access.of("127.0.0.1").check(headers)
    assert caught.value.status == 403
    assert "--allow-host" in caught.value.hint


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://evil.example:8421",
        "null",
        "http://intranet",
        "file://",
        "http://localhost.x.y",
    ],
)
def test_a_page_from_elsewhere_is_refused(origin):
    assert not is_answered(Access.of("127.0.0.1"), host="localhost", origin=origin)
    assert is_answered(Access.of("127.0.0.1"), host="localhost", origin="http://localhost:3000")


def test_names_can_be_added_and_then_hold_on_any_address():
    for address in ("127.0.0.1", "0.0.0.0"):
        access = Access.of(address, hosts=("Node.Example",))
        assert is_answered(access, host="node.example:8421", origin="https://node.example")
        assert not is_answered(access, host="other.example")
    assert is_answered(Access.of("0.0.0.0"), host="any.example", origin="https://any.example")


@pytest.mark.parametrize(
    ("kind", "taken"),
    [
        ("application/json", True),
        ("Application/JSON; charset=UTF-8", True),
        ('application/json; charset="utf-8"', True),
        ("application/json; charset=utf-16", False),
        ("text/plain", False),
        ("text/plain; application/json", False),
        ("multipart/form-data; boundary=x", False),
        ("application/x-www-form-urlencoded", False),
        ("application/jsonx", False),
        ("", False),
    ],
)
def test_only_json_is_taken(kind, taken):
    headers = Headers({"content-type": kind})
    if taken:
        check_content_type(headers)
    else:
        with pytest.raises(RequestError) as caught:
            check_content_type(headers)
        assert caught.value.status == 415


def test_a_body_without_a_type_is_taken_from_programs_and_not_from_pages():
    check_content_type(Headers({}))
    for mark in ("origin", "sec-fetch-site"):
        with pytest.raises(RequestError):
            check_content_type(Headers({mark: "http://localhost"}))


def test_a_compressed_body_is_not_read_as_if_it_were_not():
    check_encoding(Headers({"content-encoding": "identity"}))
    with pytest.raises(RequestError):
        check_encoding(Headers({"content-encoding": "gzip"}))


def test_a_server_holds_requests_against_the_rules(session, tokenizer):
    with running(session, tokenizer, hosts=("node.example",)) as (url, _):
        for path in ("/healthz", "/v1/models", "/metrics"):
            assert httpx.get(f"{url}{path}", headers={"Host": "node.example"}).status_code == 200
            refused = httpx.get(f"{url}{path}", headers={"Host": "evil.example"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")

        def post(**headers):
            return httpx.post(f"{url}/v1/completions", content=BODY, headers=headers).status_code

        assert post() == 200
        assert post(**{"Content-Type": "text/plain"}) == 415
        assert post(**{"Content-Type": "application/json", "Content-Encoding": "gzip"}) == 415
        assert post(**{"Content-Type": "application/json", "Origin": "http://evil.example"}) == 403
