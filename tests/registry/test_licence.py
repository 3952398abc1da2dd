from __future__ import annotations

import pytest

from registry.licence import read_licence

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"README.md": "---\nlicense: apache-2.0\n---\n# x"}, "Apache-2.0"),
        ({"README.md": "---\nlicense: 'MIT'  # ours\n---\n"}, "MIT"),
        ({"README.md": "---\nlanguage: en\nlicense:\n- mit\ntags: []\n---\n"}, "MIT"),
        (
            {"README.md": "---\nlicense: other\nlicense_name: my-licence v2\n---\n"},
            "LicenseRef-my-licence-v2",
        ),
        ({"README.md": "---\nlicense: llama3.1\n---\n"}, "LicenseRef-llama3.1"),
        ({"README.md": "---\nlicense: [mit, apache-2.0]\n---\n"}, "unknown"),
        ({"README.md": "license: mit"}, "unknown"),
        ({"LICENSE": "   Apache License\n   Version 2.0, January 2004"}, "Apache-2.0"),
        ({"LICENCE.txt": "MIT License\n\nCopyright"}, "MIT"),
        ({"LICENSE": "All rights reserved"}, "unknown"),
        ({"README.md": "---\nlicense: mit\n---\n", "LICENSE": "Apache License\nVersion 2.0"}, "MIT"),
    ],
)
def test_the_licence_is_what_the_checkpoint_states(tmp_path, files, licence):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert read_licence(tmp_path) == licence
