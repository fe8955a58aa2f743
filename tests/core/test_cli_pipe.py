"""A reader that goes away (`... | head`) ends a command quietly."""

from __future__ import annotations

import subprocess
import sys


def test_a_closed_pipe_is_no_traceback() -> None:
    code = (
        "from core.command import execute\n"
        "execute(lambda: [print('x' * 99) for _ in range(99999)] and 0)"
    )
    shown = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{code}" | head -n 1; exit ${{PIPESTATUS[0]}}'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.stderr == ""
    assert shown.returncode == 141
    assert shown.stdout.startswith("xxx")
