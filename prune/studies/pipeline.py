"""A small corpus through the stages: `make(ScoreConfig(...))` is what prune.score does with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.stage import Result, run_stage
from data.corpus.specs import open_corpus
from prune.cluster.assign import assign
from prune.cluster.centroids import centroids
from prune.cluster.config import AssignConfig, CentroidsConfig, HierarchyConfig
from prune.cluster.hierarchy import hierarchy
from prune.encoders.config import EmbedConfig
from prune.encoders.embed import embed
from prune.stage1.config import ScoreConfig
from prune.stage1.score import score
from prune.subsets.config import SelectConfig
from prune.subsets.select import select
from world.plan.config import WorldConfig
from world.write.build import build

__all__ = [
    "AssignConfig", "CentroidsConfig", "EmbedConfig", "HierarchyConfig", "ScoreConfig",
    "SelectConfig", "WorldConfig", "assigned", "make",
]  # fmt: skip

_STAGES: dict[type, Any] = {
    WorldConfig: build,
    CentroidsConfig: centroids,
    AssignConfig: assign,
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
    elif isinstance(config, ScoreConfig):
        corpus = open_corpus(config.corpus)
        result = run_stage(config.stage(corpus), lambda stage: score(config, corpus, stage))
    elif isinstance(config, EmbedConfig):
        opened = config.open()
        result = run_stage(config.stage(opened), lambda stage: embed(config, *opened, stage))
    else:
        stage_of = _STAGES[type(config)]
        result = run_stage(config.stage(), lambda stage: stage_of(config, stage))
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
