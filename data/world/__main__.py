"""`python -m data.world --out DIR`: write the miniature world to disk."""

from __future__ import annotations

from collections.abc import Sequence

from data.cli import parse, run, science
from data.stage import Stage, require_folder
from data.world.config import WorldConfig


def main(argv: Sequence[str] | None = None) -> int | None:
    """Make the world, or say that it is already there."""
    config = parse(
        WorldConfig,
        argv,
        prog="python -m data.world",
        description="A seeded procedural corpus with known truth, in the formats of real sets.",
    )
    require_folder(config.out)
    stage = Stage(config.out, "data.world", science(config), {})
    if stage.done():
        return 0
    from data.world.build import build, tidy
    from data.world.plan import check

    check(config)
    stage.open()
    summary, outputs, line = build(config)
    stage.finish(summary, outputs, line)
    tidy(config.out)
    return 0


if __name__ == "__main__":
    run(main)
