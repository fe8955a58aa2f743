"""`python -m world.build --out DIR`: write the miniature world to disk."""

from __future__ import annotations

from collections.abc import Sequence

from core.settings import parse, science
from core.stage import Stage, require_folder
from world.plan.config import WorldConfig


def main(argv: Sequence[str] | None = None) -> int | None:
    """Make the world, or say that it is already there."""
    config = parse(
        WorldConfig,
        argv,
        prog="python -m world.build",
        description="A seeded procedural corpus with known truth, in the formats of real sets.",
    )
    require_folder(config.out)
    stage = Stage(config.out, "world.build", science(config), {})
    if stage.done():
        return 0
    from world.plan.corpus import check
    from world.write.build import build, tidy

    check(config)
    stage.open()
    summary, outputs, line = build(config)
    stage.finish(summary, outputs, line)
    tidy(config.out)
    return 0
