"""A small corpus through the stages: `make(ScoreConfig(...))` is what prune.score does with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.stage import Result, read_manifest, run_stage
from prune.cluster.assign import assign
from prune.cluster.centroids import CentroidsConfig
from prune.cluster.centroids import main as centroids
from prune.cluster.config import AssignConfig
from prune.cluster.hierarchy import HierarchyConfig
from prune.cluster.hierarchy import main as hierarchy
from prune.encoders.embed import EmbedConfig
from prune.encoders.embed import main as embed
from prune.stage1.score import ScoreConfig
from prune.stage1.score import main as score
from prune.subsets.config import SelectConfig
from prune.subsets.select import select
from world.plan.config import WorldConfig
from world.write.command import main as world

__all__ = [
    "AssignConfig", "CentroidsConfig", "EmbedConfig", "HierarchyConfig", "ScoreConfig",
    "SelectConfig", "WorldConfig", "assigned", "make",
]  # fmt: skip

_MAINS: dict[type, Callable[[list[str]], int | None]] = {
    WorldConfig: world,
    ScoreConfig: score,
    EmbedConfig: embed,
    CentroidsConfig: centroids,
    HierarchyConfig: hierarchy,
}


def make(config: Any) -> Path:
    """Make one stage, or find it made. Returns where it is.

    Args:
        config: of the world, score, embed, centroids, assign, hierarchy or select.

    Raises UserError when it fails.
    """
    result: Result
    if isinstance(config, SelectConfig):
        result = select(config)
    elif isinstance(config, AssignConfig):
        result = run_stage(config.stage(), lambda stage: assign(config, stage))
    else:
        code = _MAINS[type(config)](_arguments(config)) or 0
        result = Result(config.out, read_manifest(config.out)["summary"], exit_code=code)
    if result.exit_code:
        raise UserError(f"{config.out}: its stage ended with exit code {result.exit_code}")
    return result.out


def assigned(
    at: Mapping[str, Path],
    corpus: str,
    reference: Path,
    keep: float,
    encoder: Mapping[str, Any],
    clustering: Mapping[str, Any],
) -> Path:
    """From the score table to the assignments of what Stage I keeps. Returns where they are.

    Args:
        at: where 'scores' is, and where 'reference', 'pool', 'centroids' and 'assignments' go.
        corpus, reference: what was scored, and the reference set.
        keep: fraction that Stage I keeps.
        encoder, clustering: settings of EmbedConfig and of CentroidsConfig.
    """
    scored: dict[str, Any] = {"corpus": corpus, "scores": at["scores"]}
    make(EmbedConfig(reference=(str(reference),), out=at["reference"], **encoder))
    make(CentroidsConfig(embeddings=(at["reference"],), out=at["centroids"], **clustering))
    make(EmbedConfig(keep=keep, out=at["pool"], **scored, **encoder))
    return make(
        AssignConfig(embeddings=at["pool"], centroids=at["centroids"], out=at["assignments"])
    )


def _arguments(config: Any) -> list[str]:
    arguments = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            values = value if isinstance(value, tuple) else (value,)
            arguments += [f"--{field.name.replace('_', '-')}", *map(str, values)]
    return arguments
