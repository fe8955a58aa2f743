"""scripts/wandb_sync.sh with a stand-in for wandb that notes what it is asked to send."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "wandb_sync.sh"
STAND_IN = """#!/bin/sh
[ -z "${WANDB_MODE:-}" ] || exit 3  # with which the real one would send nothing
for folder; do :; done
echo "$folder" >>"$SENT"
case "$folder" in *"${FAILS:-none}"*) exit 1 ;; esac
for data in "$folder"/run-*.wandb; do touch "$data.synced"; done
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "wandb").write_text(STAND_IN)
    (tmp_path / "bin" / "wandb").chmod(0o755)
    return tmp_path


def offline(place: Path, where: str, when: str, name: str) -> Path:
    folder = place / "my runs" / where / "wandb" / f"offline-run-20261127_{when}-{name}"
    folder.mkdir(parents=True)
    (folder / f"run-{name}.wandb").write_bytes(b":W&B")
    return folder


def sync(place: Path, **more: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    sent = place / "sent"
    sent.write_text("")
    environment = {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "HOME": str(place), "SENT": str(sent),
        "WANDB_MODE": "offline", "WANDB_API_KEY": "key", **more,
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(SCRIPT), str(place / "my runs")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done, sent.read_text().splitlines()


def test_the_newest_folder_of_each_run_is_sent_once_oldest_first(place: Path) -> None:
    offline(place, "table1", "100000", "aaaa")
    newer = offline(place, "table1", "120000", "aaaa")
    first = offline(place, "stages/dit.train/x", "110000", "with-dashes")
    (place / "my runs" / "table1" / "wandb" / "run-20261127_100000-live").mkdir()
    done, sent = sync(place)
    assert done.returncode == 0, done.stderr
    assert sent == [str(first), str(newer)]
    assert "2 runs to send, 0 sent before, 1 older copies" in done.stdout
    done, sent = sync(place)
    assert done.returncode == 0 and sent == []
    assert "0 runs to send, 2 sent before" in done.stdout
    later = (first / "run-with-dashes.wandb.synced").stat().st_mtime + 5  # it went on
    os.utime(first / "run-with-dashes.wandb", (later, later))
    assert sync(place)[1] == [str(first)]


def test_a_failure_leaves_the_others_and_is_tried_again(place: Path) -> None:
    offline(place, "a", "100000", "aaaa")
    second = offline(place, "b", "110000", "bbbb")
    done, sent = sync(place, FAILS="aaaa")
    assert done.returncode == 1 and len(sent) == 2
    assert "1 of 2 runs were not sent; run the same command again" in done.stderr
    assert (second / "run-bbbb.wandb.synced").exists()
    assert len(sync(place)[1]) == 1


def test_what_is_missing_is_said(place: Path) -> None:
    done, sent = sync(place)
    assert done.returncode == 2 and "no such folder" in done.stderr
    (place / "my runs").mkdir()
    assert "nothing to send" in sync(place)[0].stdout
    offline(place, "a", "100000", "aaaa")
    done, sent = sync(place, WANDB_API_KEY="")
    assert done.returncode == 2 and sent == []
    assert "no key for api.wandb.ai: set WANDB_API_KEY, or run 'wandb login'" in done.stderr
    (place / ".netrc").write_text("machine wandb.mine.org\n  login user\n  password key\n")
    done, sent = sync(place, WANDB_API_KEY="")
    assert done.returncode == 2 and sent == []
    done, sent = sync(place, WANDB_API_KEY="", WANDB_BASE_URL="https://wandb.mine.org:8080/")
    assert done.returncode == 0 and len(sent) == 1
