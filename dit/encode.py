"""The latents of a subset, each image and its mirror image, once.

    python -m dit.encode --corpus CORPUS --subset rsprune.parquet --vae VAE --out STORE
"""

from __future__ import annotations

from core.command import command, execute
from core.engines import quiet_unless_main
from core.stage import Result, run_stage
from dit.latents.config import EncodeConfig

__all__ = ["EncodeConfig", "run"]


def run(config: EncodeConfig) -> Result:
    """Encode the images of a subset that a latent store does not hold yet.

    A store belongs to a corpus, a VAE and an image size, and serves every subset: run the command
    for each of them with the same --out. New shards are written complete, so a stopped run
    continues where it was.
    """
    quiet_unless_main()
    stage = config.stage()

    def make(_: object) -> Result:
        from dit.latents.encode import encode

        return encode(config, stage)

    return run_stage(stage, make)


main = command("dit.encode", EncodeConfig, run)

if __name__ == "__main__":
    execute(main)
