"""What a VAE does to held-out images: quality of each band, and rFID, to one JSON file.

    python -m eval.reconstruction --vae V --corpus C --holdout H --out F.json
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from eval.judges.config import ReconstructionConfig

__all__ = ["ReconstructionConfig", "run"]


def run(config: ReconstructionConfig) -> Result:
    """What a VAE does to held-out images: PSNR, SSIM and L1 of each band, and the distance of the
    reconstructions from the originals; of four bands also near infrared's own signal, and the
    distance in colour infrared. A sheet shows originals above reconstructions.
    """

    def make(stage: Stage) -> Result:
        from eval.judges.reconstruction import reconstruction

        return reconstruction(config, stage)

    return run_stage(config.stage(), make)


main = command("eval.reconstruction", ReconstructionConfig, run)

if __name__ == "__main__":
    execute(main)
