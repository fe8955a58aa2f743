"""Reference sets: labelled scenes (D_ref), alone or as a union (`python -m data.scenes --help`)."""

from core.command import command, execute
from core.errors import UserError
from data.reference import sets
from data.reference.config import ScenesConfig

__all__ = ["ScenesConfig", "run"]


def run(config: ScenesConfig) -> sets.Scenes:
    """Print what a reference holds and what is not as published. Returns its listing."""
    if not config.reference:
        raise UserError("name a reference: FOLDER, ucm:FOLDER, nwpu:, union5: ...")
    scenes = sets.open_scenes(config.reference)
    print(sets.describe(scenes))
    return scenes


main = command(
    "data.scenes", ScenesConfig, run, (sets.__doc__ or "").strip(), positional="reference"
)

if __name__ == "__main__":
    execute(main)
