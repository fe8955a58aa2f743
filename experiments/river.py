"""The pipeline, written down once: from a cell to its jobs, their inputs, and where each writes.

A job's folder is named after what it is and a fingerprint of its command and of all before it, so
cells of any experiment that share a stage find the same folder. Machine settings are no part of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.manifest import manifest_path
from experiments.commands import Flags, Inside, Job, argv, fingerprint, jobs_in
from experiments.grid import OWN, WITH_STAGE_ONE, Cell, percent
from experiments.profiles import Profile

ON_GPU = {
    "prune.embed", "dit.train_vae", "dit.encode", "dit.train", "dit.sample", "eval.evaluate",
    "eval.loss", "eval.reconstruction",
    "eval.track", "downstream.train_segmenter", "downstream.train", "downstream.evaluate",
}  # fmt: skip
# At the beginning, when nothing else can run; later, a job of several cores waits for all of them.
ALL_CORES = {"world.build", "prune.score", "prune.embed", "dit.train_vae"}
ASSIGNED = ("rsprune", "moderate", *OWN)  # read assignments
DRAWN = ("random", "random-survivors")  # drawn anew for each seed of a training
EMBEDDED = 0.30  # embeddings of so many survivors serve all that need no more; else the pool's
VALIDATION = 0.1  # of a task's training images, where a checkpoint is chosen by them
ROOMS = {
    "world.build": "worlds", "prune.score": "scores", "data.filter": "scores",
    "data.holdout": "holdouts",
    "prune.embed": "embeddings", "prune.centroids": "centroids", "prune.assign": "assignments",
    "prune.select": "subsets", "dit.train_vae": "vaes", "dit.encode": "latents", "dit.train": "dit",
    "dit.sample": "samples", "eval.evaluate": "metrics", "eval.loss": "metrics",
    "eval.track": "tracks", "eval.reconstruction": "metrics",
    "downstream.train_segmenter": "segmenters", "downstream.train": "downstream",
    "downstream.evaluate": "downstream-images",
}  # fmt: skip


class River:
    """Jobs of an experiment's cells, each once.

    Args:
        profile: sizes, flags and places.
        root: folder of all results of the profile, RUNS/PROFILE.
    """

    def __init__(self, profile: Profile, root: Path) -> None:
        self.profile = profile
        self.settings = profile.settings
        self.root = root
        self.jobs: dict[str, Job] = {}

    # What all cells of a corpus share.

    def corpus(self, name: str) -> str | Inside:
        """The corpus as prune.score takes it: the user's, or the miniature world's."""
        given = self.profile.place("corpora", name)
        if given or not self.four_bands(name):
            return given or self._world("corpora", name, "corpus")
        return self._world("corpora", name, f"usa1m:{{}}/naip{self.profile.cut}")

    def four_bands(self, corpus: str) -> bool:
        """Whether the corpus has near infrared, and so a VAE of its own."""
        return int(self.profile.corpora[corpus].get("bands", 3)) == 4

    def scores(self, corpus: str) -> Job:
        """Stage I's entropies; for RS5M, of what its filter leaves."""
        filtered = "filtered" in self.profile.corpora[corpus]
        flags = {"corpus": self.corpus(corpus), "statistics": filtered or None}
        scores = self._job("prune.score", corpus, flags, items=self.images(corpus, scored=True))
        if not filtered:
            return scores
        return self._job("data.filter", f"{corpus}-filtered", {"scores": scores})

    def reference(self, name: str) -> list[Job]:
        """Embeddings of a reference set: of a union one for each of its sets."""
        about = self.profile.references[name]
        if "of" in about:
            return [job for part in about["of"] for job in self.reference(part)]
        given = self.profile.place("references", name)
        place = given or self._world("references", name, "reference")
        flags = {"reference": place}
        return [self._job("prune.embed", f"reference-{name}", flags, items=about["images"])]

    def holdout(self, corpus: str) -> Job:
        """Evaluation images, set aside before anything is pruned: pool, balanced, informative."""
        spec, scores = self.corpus(corpus), self.scores(corpus)
        if isinstance(spec, tuple):  # the miniature world knows its classes
            truth = "naip-truth.parquet" if self.four_bands(corpus) else "truth.parquet"
            classes: Flags = {"labels": (spec[0], truth)}
        else:
            flags = {
                "corpus": spec,
                "scores": scores,
                "keep": 1,
                "sample": self.settings["candidates"],
            }
            sample = self._job(
                "prune.embed", f"{corpus}-candidates", flags, items=self.settings["candidates"]
            )
            classes = {"embeddings": sample, "reference": self.reference("main")[0]}
        flags = {"scores": scores, "n": self.settings["holdout"], **classes}
        return self._job("data.holdout", corpus, flags, part=corpus, suffix=".parquet")

    def pool(self, corpus: str, keep: float, part: str = "") -> Job:
        """Embeddings of the pool, or of enough survivors of Stage I."""
        keep = EMBEDDED if keep <= EMBEDDED else 1.0
        flags = {
            "corpus": self.corpus(corpus), "scores": self.scores(corpus),
            "holdout": self.holdout(corpus),
            "keep": keep,
        }  # fmt: skip
        label = f"{corpus}-{part or 'pool'}" + ("" if keep == 1 else f"-D{percent(keep)}")
        images = self.images(corpus)
        items = None if images is None else images * keep
        return self._job("prune.embed", label, flags, part=part, items=items)

    def centroids(self, cell: Cell) -> Job:
        """K centroids of the reference, or of the pool's own embeddings."""
        own = cell.reference == "own"
        of = [self.pool(cell.corpus, cell.keep)] if own else self.reference(cell.reference)
        flags: dict[str, Any] = {"embeddings": of, "clusters": cell.clusters}
        if self.settings["whiten"]:
            flags["whiten"] = cell.dimension or self.settings["whiten"]
        elif cell.dimension:
            flags["reduce"] = cell.dimension
        if own and self.profile.name == "paper":
            flags["streaming"] = True  # the pool's do not fit into memory
        label = f"{cell.corpus}-D{percent(cell.keep)}" if own else cell.reference
        if cell.dimension:
            label += f"-d{cell.dimension}"
        items = sum(job.items or 0 for job in of)
        return self._job("prune.centroids", f"{label}-K{cell.clusters}", flags, items=items)

    def assignments(self, cell: Cell) -> Job:
        """The pool, or its survivors, assigned to the centroids."""
        pool, centroids = self.pool(cell.corpus, cell.keep), self.centroids(cell)
        flags = {"embeddings": pool, "centroids": centroids}
        label = f"{pool.out.name.rpartition('-')[0]}-{centroids.out.name.rpartition('-')[0]}"
        return self._job("prune.assign", label, flags, items=pool.items)

    def subset(self, cell: Cell, seed: int) -> Job:
        """The subset index of a cell."""
        method, corpus = cell.method, cell.corpus
        flags: dict[str, Any] = {
            "method": method, "scores": self.scores(corpus), "holdout": self.holdout(corpus),
        }  # fmt: skip
        if method != "full":
            flags["ratio"] = cell.ratio
        if method in WITH_STAGE_ONE:
            flags["keep"] = cell.keep
        if method in ASSIGNED:
            flags["assignments"] = self.assignments(cell)
        if method in ("moderate", "dinov2"):
            flags["embeddings"] = self.pool(corpus, 1.0)
        if method == "dinov2":
            flags["reference"] = self.reference(cell.reference)[0]
            if self.profile.flags["prune.embed.copies"] != self.profile.flags["prune.embed"]:
                flags["copies"] = self.pool(corpus, 1.0, part="copies")
        label = f"{corpus}-{cell.subset}"
        if method in DRAWN:
            flags["seed"] = seed
            label += f"-s{seed}" if seed else ""
        items = self.images(corpus)
        return self._job("prune.select", label, flags, part=method, suffix=".parquet", items=items)

    def vae(self, corpus: str) -> str | Job:
        """The VAE: as published, as it comes with the code, or trained on the pool (VAE=train).

        A corpus of four bands has settings of its own, vae_CORPUS and vae_steps_CORPUS: no VAE of
        four bands is published.
        """
        vae = self.settings.get(f"vae_{corpus}", self.settings["vae"])
        if vae != "train":
            return str(vae)
        steps = self.settings.get(f"vae_steps_{corpus}", self.settings["vae_steps"])
        flags = {
            "corpus": self.corpus(corpus), "scores": self.scores(corpus),
            "holdout": self.holdout(corpus),
            "image-size": self.settings["image_size"], "steps": steps,
        }  # fmt: skip
        return self._job("dit.train_vae", corpus, flags, part=corpus, items=steps)

    def reconstruction(self, corpus: str) -> Job:
        """How well the VAE of a corpus gives its hold-outs back: a floor of all generation."""
        flags = {
            "vae": self.vae(corpus), "corpus": self.corpus(corpus),
            "holdout": self.holdout(corpus), "image-size": self.settings["image_size"],
        }  # fmt: skip
        items = 3 * self.settings["holdout"]
        name = f"{corpus}-reconstruction"
        return self._job("eval.reconstruction", name, flags, suffix=".json", items=items)

    def encode(self, cell: Cell, subset: Job) -> Job:
        """The subset's latents in the one store of its corpus and VAE."""
        corpus, vae = self.corpus(cell.corpus), self.vae(cell.corpus)
        common = {"corpus": corpus, "vae": vae, "image-size": self.settings["image_size"]}
        store = self.root / "latents" / f"{cell.corpus}-{fingerprint('dit.encode', common)}"
        flags = {**common, "subset": subset}
        label = subset.out.stem.rpartition("-")[0]
        return self._job("dit.encode", label, flags, out=store, note=True, items=self.budget(cell))

    def segmenter(self) -> Job:
        """The network that says whether synthetic images obey their masks."""
        flags = {
            "data": self._data("sis"), "image-size": self.settings["image_size"],
            "steps": self.settings["segmenter_steps"],
        }  # fmt: skip
        return self._job("downstream.train_segmenter", "sis", flags, items=flags["steps"] * 16)

    # One training of a cell, and what is measured of it.

    def run(self, cell: Cell, seed: int) -> dict[str, Job]:
        """All jobs of a training: part -> job, as eval.programme.plan.Run names them."""
        subset = self.subset(cell, seed)
        made: dict[str, Job] = {"subset": subset, "scores": self.scores(cell.corpus)}
        if cell.method in ASSIGNED:
            made |= {"centroids": self.centroids(cell), "assignments": self.assignments(cell)}
        label = f"{cell.corpus}-{cell.subset}" + (f"-s{seed}" if seed else "")
        vae, holdout = self.vae(cell.corpus), self.holdout(cell.corpus)
        made["encode"] = self.encode(cell, subset)
        if self.four_bands(cell.corpus):
            made["reconstruction"] = self.reconstruction(cell.corpus)
        steps = self.steps(cell)
        train = made["train"] = self._job("dit.train", label, {
            "latents": made["encode"], "subset": subset, "model": self.settings["model"],
            "steps": steps,
            "batch": self.settings["batch"], "seed": seed,
        }, items=steps * self.settings["batch"])  # fmt: skip
        of_corpus = {"corpus": self.corpus(cell.corpus), "holdout": holdout}
        n = self.settings["holdout"]
        if "generation" in cell.tasks:
            samples = made["samples"] = self._job(
                "dit.sample", label, {"checkpoint": train, "n": n, "vae": vae}, items=n
            )
            made["generation"] = self._job("eval.evaluate", f"{label}-generation", {
                "generated": samples, **of_corpus, "subset": subset, "vae": vae,
                "image-size": self.settings["image_size"],
            }, part=cell.corpus, suffix=".json", items=8 * n)  # fmt: skip
        if "loss" in cell.tasks:
            made["loss"] = self._job("eval.loss", f"{label}-loss", {
                "checkpoint": train, **of_corpus, "subset": subset, "vae": vae,
            }, suffix=".json", items=4 * n)  # fmt: skip
        if "track" in cell.tasks or self.settings["track"]:
            flags = {"run": train, "vae": vae, **of_corpus}
            if "n" not in self.profile.flags["eval.track"]:
                flags["n"] = n
            kept = self.profile.machine["dit.train"]["keep-every"]
            flags["every"] = kept
            items = n * max(1, steps // kept)
            made["track"] = self._job("eval.track", label, flags, note=True, items=items)
        for task in ("sr", "sis"):
            if task in cell.tasks:
                made |= self._downstream(task, label, seed, train, subset, vae)
        return made

    def _downstream(
        self, task: str, label: str, seed: int, train: Job, subset: Job, vae: str | Job
    ) -> dict[str, Job]:
        """Fine-tuning for a task, its images by each checkpoint rule, and their metrics."""
        data, steps = self._data(task), self.settings["tune_steps"]
        flags = {
            "task": task, "init": train, "data": data, "vae": vae, "steps": steps, "seed": seed,
            "image-size": self.settings["image_size"],
        }  # fmt: skip
        if "best-validation" in self.settings["checkpoints"]:
            flags["validation"] = VALIDATION
        batch = self.profile.flags["downstream.train"]["batch"]
        label = f"{label}-{task}"
        tuned = self._job("downstream.train", label, flags, part=task, items=steps * batch)
        made = {f"{task}-train": tuned}
        for rule in self.settings["checkpoints"]:
            named, name = ("", label) if rule == "last" else (f":{rule}", f"{label}-{rule}")
            flags = {"task": task, "run": tuned, "data": data, "vae": vae}
            if rule != "last":
                flags["checkpoint"] = rule
            if task == "sis":  # do images obey their masks?
                flags["segmenter"] = self.segmenter()
            limit = self.profile.flags["downstream.evaluate"].get("limit", 1500)
            images = self._job("downstream.evaluate", name, flags, items=limit)
            made[f"{task}-images{named}"] = images
            made[f"{task}{named}"] = self._job(
                "eval.evaluate", name, {"pairs": images, "subset": subset},
                part="pairs", suffix=".json", items=2 * limit,
            )  # fmt: skip
        return made

    # Sizes.

    def images(self, corpus: str, scored: bool = False) -> float | None:
        """Images of a corpus as far as they are known beforehand."""
        if isinstance(self.corpus(corpus), tuple):
            return float(self.profile.worlds[corpus].get("tiles", self.settings["tiles"]))
        about = self.profile.corpora[corpus]
        if self.profile.name != "paper":
            return None
        return float(about["images"] if scored else about.get("filtered", about["images"]))

    def budget(self, cell: Cell) -> float | None:
        """Images that the cell keeps."""
        images = self.images(cell.corpus)
        return None if images is None else images * (1 - cell.ratio)

    def steps(self, cell: Cell) -> int:
        """Training steps: USA-1m's are 0.4 of the others' (40K, 100K; Sec. 4.1); more in mini."""
        factor = self.profile.corpora[cell.corpus].get("steps_factor", {}).get(self.profile.name, 1)
        return max(1, round(self.settings["steps"] * factor))

    # Names.

    def _world(self, kind: str, name: str, part: str) -> str | Inside:
        if name not in self.profile.worlds:
            variable = getattr(self.profile, kind)[name]["variable"]
            return f"${variable}"  # to be set: the preflight names it
        world = dict(self.profile.worlds[name])
        flags = {"seed": world.pop("seed"), "tiles": world.pop("tiles", self.settings["tiles"])}
        flags |= {key.replace("_", "-"): value for key, value in world.items()}
        tiles = float(flags["tiles"])
        return self._job("world.build", f"seed{flags['seed']}", flags, items=tiles), part

    def _data(self, task: str) -> str | Inside:
        return self.profile.place("tasks", task) or self._world("tasks", task, task)

    def _job(
        self,
        stage: str,
        label: str,
        flags: Flags,
        *,
        part: str = "",
        suffix: str = "",
        out: Path | None = None,
        note: bool = False,
        items: float | None = None,
    ) -> Job:
        """The job of a command, made once for all that ask for it.

        `part` chooses further flags of the profile ('STAGE.PART'); `note`: the output grows, or has
        no manifest, so that a file that the runner writes says that this job is done.
        """
        profile = self.profile
        specific = profile.flags.get(f"{stage}.{part}") if part else None
        general = profile.flags.get(stage, {})
        if stage == "prune.embed" and part == "copies":
            general = {}  # another encoder, not a variant of the first
        if stage == "eval.evaluate" and part == "pairs":
            general = {}
        science = {**flags, **general, **(specific or {})}
        science = {name: value for name, value in science.items() if value is not None}
        room = self.root / ROOMS[stage]
        name = f"{label}-{fingerprint(stage, science)}"
        place = out or room / f"{name}{suffix}"
        identity = f"{ROOMS[stage]}/{name}"
        if identity in self.jobs:
            return self.jobs[identity]
        target = place / "finished" / f"{name}.txt" if note else manifest_path(place)
        machine: dict[str, Any] = dict(profile.machine.get(stage, {}))
        if stage == "eval.evaluate":
            machine["cache"] = str(self.root / "features")
        words = ["python", "-m", stage, *argv(science), *argv(machine), "--out", str(place)]
        gpus = self.settings["gpus"] if stage in ON_GPU else 0
        if stage == "prune.embed" and science["encoder"] == "descriptor":
            gpus = 0
        memory = profile.costs.get("memory_gb", {}).get(stage, 4.0)
        cores = 2 if stage in ALL_CORES else 1
        if profile.name == "paper":
            cores = 8 * max(1, gpus) if gpus or stage in ALL_CORES else 4
        job = Job(
            identity, stage, place, target, words,
            sorted({j.id for j in jobs_in(science.values())}),
            cores, gpus, memory, items,
        )  # fmt: skip
        self.jobs[identity] = job
        return job
