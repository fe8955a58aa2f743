"""Every code block of the pages runs as it is written, or says before it why it does not.

    <!-- not run: needs Git-10M -->

before a block leaves it out; then its commands must still exist, with every flag that it gives
them. The blocks of a page share a working folder and run in their order.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.settings import parse

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = ("data", "world", "prune", "dit", "downstream", "eval")
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A code block: where it begins, what is in it, and why it is not run ('' when it is)."""

    page: Path
    line: int
    language: str
    text: str
    why: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path, text: str | None = None) -> list[Block]:
    text = page.read_text(encoding="utf-8") if text is None else text
    return [
        Block(page, text[: m.start()].count("\n") + 1, m["language"], m["text"], m["why"] or "")
        for m in _BLOCK.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def commands(block: Block) -> Iterator[tuple[str, list[str]]]:
    """(module, arguments) of every `python -m ROOM.COMMAND ...` of a block."""
    joined = block.text.replace("\\\n", " ")
    for line in joined.splitlines():
        words = shlex.split(line.replace("&&", ";"), comments=True)
        for i, word in enumerate(words[:-1]):
            if word == "-m" and words[i + 1].split(".")[0] in ROOMS:
                rest = words[i + 2 :]
                ends = [n for n, w in enumerate(rest) if w in (";", "|", ">") or w.endswith(";")]
                yield words[i + 1], rest[: ends[0]] if ends else rest


def configs_of(module: str) -> list[type]:
    """The settings dataclasses of a command: one, or one for each of its sub-commands."""
    command = importlib.import_module(module)
    assert callable(command.main)
    for place in (command, sys.modules[command.main.__module__]):
        found = [
            value for name, value in vars(place).items()
            if name.endswith("Config") and dataclasses.is_dataclass(value)
        ]  # fmt: skip
        if found:
            return found
    raise AssertionError(f"{module}: no settings found")


def complaint(module: str, arguments: list[str]) -> str:
    """What is wrong with a command of a page, '' for nothing."""
    try:
        command = importlib.import_module(module)
    except ImportError as error:
        return f"no such command: {error}"
    if hasattr(command, "parser"):  # data.check, which reads its flags without our settings
        try:
            command.parser().parse_args(arguments)
        except SystemExit:
            return "does not parse"
        return ""
    configs = configs_of(module)
    names = {field.name.replace("_", "-") for c in configs for field in dataclasses.fields(c)}
    known = {f"--{name}" for name in names} | {f"--no-{name}" for name in names} | {"--config"}
    flags = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    if unknown := [flag for flag in flags if flag not in known]:
        return f"no such flag: {', '.join(unknown)}"
    positional = arguments and not arguments[0].startswith("-")  # which only main understands
    if len(configs) == 1 and not positional and "..." not in " ".join(arguments):
        try:
            parse(configs[0], arguments, prog=module, description="")
        except (SystemExit, Exception) as error:
            return f"does not parse: {error}"
    return ""


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_commands_and_flags_exist(block: Block) -> None:
    wrong = [
        f"{block}: python -m {module} {' '.join(arguments)}: {found}"
        for module, arguments in (commands(block) if block.language == "bash" else ())
        if (found := complaint(module, arguments))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_of_a_language_that_can_be_run(block: Block) -> None:
    assert block.language in ("bash", "python")


def test_a_mark_stands_right_before_its_block() -> None:
    for page in PAGES:
        marks = page.read_text(encoding="utf-8").count("<!-- not run:")
        assert marks == sum(bool(block.why) for block in blocks_of(page)), page


def test_wrong_pages_are_found() -> None:
    text = (
        "```bash\npython -m prune.scores --corpus C --out S\n```\n"
        "<!-- not run: an example -->\n```bash\npython -m prune.assign \\\n"
        "    --embeddings E --centroid C --out A; python -m prune.assign --out A | head\n```\n"
    )
    one, two = blocks_of(Path("page.md"), text)
    assert (one.why, two.why, two.line) == ("", "an example", 4)
    found = [complaint(module, arguments) for block in (one, two)
             for module, arguments in commands(block)]  # fmt: skip
    assert "no such command" in found[0]
    assert found[1] == "no such flag: --centroid" and "does not parse" in found[2]


def run_block(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: v for name, v in os.environ.items() if not name.endswith("_ROOT")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "RSPRUNE_PYTHON": sys.executable, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled",
    }  # fmt: skip
    bash = ["bash", "-euo", "pipefail", "-c"]
    command = bash if block.language == "bash" else [sys.executable, "-c"]
    return subprocess.run(
        [*command, block.text], cwd=folder, env=environment, capture_output=True, text=True
    )


def prepare_run(folder: Path) -> None:
    """What the main job leaves: a small trained DiT and its VAE."""
    from tests.dit.test_export import dit, save_run
    from tests.dit.tiny_vae import save_tiny_vae

    run = folder / "runs" / "mini"
    vae = save_tiny_vae(run / "vaes" / "git10m-0")
    save_run(run / "dit" / "git10m-rsprune-85-D30-0", vae, dit())


def prepare_assignments(folder: Path) -> None:
    """S: a score table. A: the assignments of its images."""
    from prune.assign import main as assign
    from prune.centroids import main as centroids
    from prune.embed import main as embed
    from prune.score import main as score
    from world.build import main as build

    world = folder / "world"
    for main, line in (
        (build, f"--tiles 120 --size 32 --broken 1 --reference-per-class 3 --sr-images 0 "
                f"--sis-pairs 0 --workers 1 --out {world}"),
        (score, f"--corpus {world}/corpus --workers 1 --out {folder}/S"),
        (embed, f"--reference {world}/reference --workers 1 --out {folder}/R"),
        (embed, f"--corpus {world}/corpus --scores {folder}/S --keep 1 --workers 1 "
                f"--out {folder}/E"),
        (centroids, f"--embeddings {folder}/R --clusters 5 --out {folder}/K"),
        (assign, f"--embeddings {folder}/E --centroids {folder}/K --workers 1 --out {folder}/A"),
    ):  # fmt: skip
        assert not main(line.split())


PREPARE: dict[str, Callable[[Path], None]] = {
    "checkpoint_to_picture.md": prepare_run,
    "methods.md": prepare_assignments,
}
"""What a page takes as made already."""
RUN = [page for page in PAGES if any(not block.why for block in blocks_of(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    for name in ("scripts", "experiments", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    PREPARE.get(page.name, lambda _: None)(tmp_path)
    for block in blocks_of(page):
        if not block.why:
            done = run_block(block, tmp_path)
            assert done.returncode == 0, f"{block}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    if page.stem == "checkpoint_to_picture":
        from PIL import Image

        with Image.open(tmp_path / "picture.png") as picture:
            assert picture.size[0] == picture.size[1] > 8
