"""The comparison: generated images with real ones, or pairs of images with each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from core.atomic import write_json
from core.engines import process_group
from core.stage import Result, Stage
from data.corpus.base import keep_apart
from data.corpus.specs import open_corpus
from eval.distances.measure import measure
from eval.judges.config import EvaluateConfig
from eval.judges.extractors import Extractor
from eval.judges.generation import generation
from eval.judges.images import check_holdout
from eval.judges.pairs import judge_pairs
from eval.judges.registry import check_judge, chosen_by


def evaluate(config: EvaluateConfig, stage: Stage) -> Result:
    """Write the metrics file. The processes of a launch share the features of the images."""
    group = process_group()
    if group.main and config.corpus is not None and config.holdout is not None:
        corpus = open_corpus(config.corpus)
        keep_apart(config.out.parent, corpus, config.corpus)
        check_holdout(corpus, config.holdout)
    choosers: dict[str, Any] = {}
    if config.subset is not None:
        choosers = {str(config.subset): chosen_by(config.subset)}
    # By its name, before the output is begun; and by its weights, once they are known.
    check_judge({"name": config.extractor}, choosers, allow=config.allow_chooser)
    group.open(stage)
    if config.pairs:
        result = judge_pairs(config, config.pairs, distances, group, stage)
    else:
        result = generation(config, stage.inputs.get("vae", ""), group, stage)
    labels = check_judge(result["extractor"], choosers, allow=config.allow_chooser)
    if config.subset is not None:
        result["chosen_by"] = choosers[str(config.subset)]
    if labels:
        result["remarks"] = labels
    write_json(config.out, result)
    return stage.finish({"result": result}, [config.out.name], _line(result))


def distances(extractor: Extractor, generated: np.ndarray, real: np.ndarray) -> dict[str, Any]:
    """eval.distances.measure in the extractor's space, of features [n, d] and [m, d]."""
    return measure(extractor.space, generated, real)


def _line(result: dict[str, Any]) -> str:
    if result["task"] == "generation":
        parts = [_distance(entry["distance"], name) for name, entry in result["holdouts"].items()]
        return f"generation: {', '.join(parts)}"
    parts = [f"{result['task']}: {_distance(result['distance'], 'targets')}"]
    parts += [f"{result[kind]['name']} {result[kind]['value']:.4f}"
              for kind in ("perceptual", "psnr", "ssim")]  # fmt: skip
    if "bicubic" in result:
        parts.append(f"bicubic input {result['bicubic']['psnr']['value']:.2f} dB")
    return ", ".join(parts)


def _distance(distance: dict[str, Any], real: str) -> str:
    head = "kernel_" if distance["lead"] == "kernel" else ""
    return (
        f"{distance[f'{head}name']} {distance[f'{head}value']:.4g} to {real} "
        f"(n {distance['n_generated']:,} vs {distance['n_real']:,})"
    )
