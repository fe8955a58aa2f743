"""Fetch a data set or weights (`bash scripts/download.sh NAME`), or say what to do by hand."""

from core.command import command, execute
from data.setup.config import DownloadConfig
from data.setup.download import download, listing

__all__ = ["DownloadConfig", "run"]


def run(config: DownloadConfig) -> int:
    """Fetch a data set or weights, or print how to get them by hand.

    The same command continues what was interrupted. Exit code 1: there is a step to do by hand.
    """
    if config.name:
        return download(config.name, config.out)
    print(listing())
    return 0


main = command("data.download", DownloadConfig, run, positional="name")

if __name__ == "__main__":
    execute(main)
