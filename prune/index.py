"""Look at subset indices.

python -m prune.index show subsets/rsprune_85.parquet
python -m prune.index verify subsets/rsprune_85.parquet --scores S --assignments A
python -m prune.index diff subsets/rsprune_85.parquet subsets/random_85.parquet
python -m prune.index export subsets/rsprune_85.parquet --to webdataset --corpus C --out FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from core.command import command, execute
from core.errors import UserError
from core.stage import Result, Stage, run_stage
from prune.subsets.config import DiffConfig, ExportConfig, ShowConfig, VerifyConfig


def show(config: ShowConfig) -> Result:
    """Describe a subset index."""
    from prune.subsets.inspect import show

    return show(config)


def verify(config: VerifyConfig) -> Result:
    """Derive a subset index again from its inputs and compare it row by row.

    Exit code 1: they differ.
    """
    from prune.subsets.inspect import verify

    return verify(config)


def diff(config: DiffConfig) -> Result:
    """Compare two indices. Exit code 1: they hold other images."""
    from prune.subsets.inspect import diff

    return diff(config)


def export(config: ExportConfig) -> Result:
    """Write a subset for other tools.

    --to keys --out subset.txt: one key a line, in the order of the index.
    --to parquet --out FOLDER: for load_dataset("parquet", data_files="FOLDER/*.parquet"); with
    --corpus C the images are in it, as an Image column.
    --to webdataset --corpus C --out FOLDER: tars of 000000000.jpg, 000000000.json, ...
    --to croissant --out subset.json: a Croissant 1.0 description of the index (JSON-LD).

    The bytes of an image are those that were scored; a chip is written as PNG, of four bands as
    GeoTIFF, of the same pixels. A stopped export continues after its last file.
    """

    def make(stage: Stage) -> Result:
        from prune.subsets.export import export

        return export(config, stage)

    return run_stage(config.stage(), make)


COMMANDS = {
    "show": command("prune.index show", ShowConfig, show),
    "verify": command("prune.index verify", VerifyConfig, verify),
    "diff": command("prune.index diff", DiffConfig, diff),
    "export": command("prune.index export", ExportConfig, export),
}


def main(argv: Sequence[str] | None = None) -> int:
    """One of COMMANDS, by the first argument. Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    if name in ("", "-h", "--help"):
        print(__doc__)
        return 0 if name else 2
    if name not in COMMANDS:
        raise UserError(f"prune.index {name}: no such command; there are {', '.join(COMMANDS)}")
    return COMMANDS[name](arguments[1:])


if __name__ == "__main__":
    execute(main)
