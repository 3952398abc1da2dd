import os
import socket

import pytest

from serving.node.directory import NodeDirectory
from serving.node.running import Announcement, running_servers
from tests.serving.support import make_own_promise


@pytest.fixture
def directory(tmp_path):
    return NodeDirectory(tmp_path)


def test_what_killed_servers_left_is_removed_at_the_next_start(directory):
    here = socket.gethostname()
    directory.servers.mkdir()
    for name in (f"{here}-1.json", f"{here}-2.json", f"{here}-2.lock", f".{here}-3.json.{'0' * 32}.partial"):
        (directory.servers / name).write_text("{}")
    announcement = Announcement(directory)
    announcement.begin("http://127.0.0.1:1", make_own_promise())
    own = f"{here}-{os.getpid()}"
    assert sorted(path.name for path in directory.servers.iterdir()) == [f"{own}.json", f"{own}.lock"]
    assert [server.pid for server in running_servers(directory)] == [os.getpid()]
    announcement.end()
    assert list(directory.servers.iterdir()) == []
