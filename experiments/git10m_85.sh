#!/usr/bin/env bash
# RS-Prune at 85 % on Git-10M: from a folder of images to the table (paper: Tables 1 and 2, row 85 %).
#
#   bash experiments/git10m_85.sh                          mini: miniature world, no GPU, no network
#   GIT10M_ROOT=... REFERENCE_ROOT=... SECOND_ROOT=... OEM_ROOT=... bash experiments/git10m_85.sh
#                                                          paper: the real thing
#   PROFILE=mini GIT10M_ROOT=... bash experiments/git10m_85.sh   small models on real images
#
# mini  : two CPU cores, about eight and a half minutes, 200 MB. Its numbers show that the river flows, no more.
# paper : 10.5 M images (394 GB), 4 x H100. By arithmetic, not measured: Stage I 1 h on 4 cores, embedding
#         of the 30 % that Stage I keeps 3 GPU-hours, selection minutes, latents of 1.57 M images (52 GB)
#         12 GPU-hours, 100K steps of DiT-XL/2 at batch 256 3.4 hours, two fine-tunes 1 hour each.
# Expect: RS-Prune ahead of Random and of full data in FID (the paper: 61.33 at 85 %; its absolute FIDs
#         disagree between its own tables, so compare orderings).
# Run the same command again after any interruption: finished stages are skipped, others continue.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

EXPERIMENT=git10m_85
CORPUS_ROOT="${GIT10M_ROOT:-}"
RATIO=0.85 # fraction of the original N that is thrown away
KEEP=0.30  # Stage I keeps the 30 % of highest entropy (Sec. 4.4.1: best at 85 and 90 %)
source experiments/profile.sh # settings of mini and paper; preflight; $RUN, $CORPUS, $VAE, launch

# Stage I: entropy of every image.
python -m prune.score --corpus "$CORPUS" --out "$RUN/scores"
python -m prune.embed --reference "$REFERENCE" "${ENCODER[@]}" --out "$RUN/reference"
hold_out # evaluation images, set aside before anything is pruned: pool, balanced, informative

# Stage II: K reference centroids, and the survivors of Stage I assigned to them.
python -m prune.embed --corpus "$CORPUS" --scores "$RUN/scores" --holdout "$RUN/holdout.parquet" \
    --keep "$KEEP" "${ENCODER[@]}" --out "$RUN/embeddings"
python -m prune.centroids --embeddings "$RUN/reference" --clusters "$CLUSTERS" --whiten "$WHITEN" \
    --out "$RUN/centroids"
python -m prune.assign --embeddings "$RUN/embeddings" --centroids "$RUN/centroids" --out "$RUN/assignments"

python -m downstream.train_segmenter --data "$(task_data sis)" "${SEGMENTER_TRAINING[@]}" --out "$RUN/segmenter"
train_vae # if asked for: mini has a small one, paper uses sd-vae-ft-ema as published

method() { # METHOD (or METHOD-seed1, a further training): from its subset to its metrics
    local METHOD="$1" SEED=0 TASK
    if [[ "$METHOD" =~ -seed([0-9]+)$ ]]; then SEED="${BASH_REMATCH[1]}"; fi
    select_subset "$METHOD" "$SEED"
    local LATENTS=(--latents "$RUN/latents" --subset "$RUN/subsets/$METHOD.parquet")
    if [ -e "$RUN/latents/$METHOD/manifest.json" ]; then
        LATENTS=(--latents "$RUN/latents/$METHOD") # a run that version 0.1 began, with a store for each method
    else # one store for all methods: an image that several of them chose is encoded once
        python -m dit.encode --corpus "$CORPUS" --subset "$RUN/subsets/$METHOD.parquet" --vae "$VAE" \
            --image-size "$IMAGE_SIZE" --out "$RUN/latents"
    fi
    launch dit.train "${LATENTS[@]}" --model "$MODEL" --steps "$STEPS" --batch "$BATCH" "${TRAINING[@]}" \
        --seed "$SEED" --out "$RUN/dit/$METHOD"
    python -m dit.sample --checkpoint "$RUN/dit/$METHOD" --n "$HOLDOUT" "${SAMPLING[@]}" --vae "$VAE" \
        --out "$RUN/samples/$METHOD"
    python -m eval.evaluate --generated "$RUN/samples/$METHOD" --corpus "$CORPUS" --holdout "$RUN/holdout.parquet" \
        --subset "$RUN/subsets/$METHOD.parquet" --vae "$VAE" --image-size "$IMAGE_SIZE" "${JUDGE[@]}" \
        --out "$RUN/metrics/$METHOD-generation.json"
    python -m eval.loss --checkpoint "$RUN/dit/$METHOD" --corpus "$CORPUS" --holdout "$RUN/holdout.parquet" \
        --subset "$RUN/subsets/$METHOD.parquet" --vae "$VAE" "${LOSS[@]}" --out "$RUN/metrics/$METHOD-loss.json"
    for TASK in sr sis; do # super-resolution (SECOND-SR), semantic image synthesis (OpenEarthMap)
        launch downstream.train --task "$TASK" --init "$RUN/dit/$METHOD" --data "$(task_data "$TASK")" --vae "$VAE" \
            "${FINETUNE[@]}" --seed "$SEED" --out "$RUN/$TASK/$METHOD"
        local SEGMENTER=()
        if [ "$TASK" = sis ]; then SEGMENTER=(--segmenter "$RUN/segmenter"); fi # do images obey their masks?
        python -m downstream.evaluate --task "$TASK" --run "$RUN/$TASK/$METHOD" --data "$(task_data "$TASK")" \
            --vae "$VAE" "${DOWNSTREAM_SAMPLING[@]}" ${SEGMENTER[@]+"${SEGMENTER[@]}"} --out "$RUN/$TASK-eval/$METHOD"
        python -m eval.evaluate --pairs "$RUN/$TASK-eval/$METHOD" --subset "$RUN/subsets/$METHOD.parquet" "${JUDGE[@]}" \
            --out "$RUN/metrics/$METHOD-$TASK.json"
    done
}
each_method method # for each method and seed, one after the other; in mini side by side

python -m eval.pictures --run "$RUN" --corpus "$CORPUS" --methods $METHODS --out "$RUN/pictures"
python -m eval.table --experiment "$EXPERIMENT" --run "$RUN" --methods $METHODS --seeds $SEEDS \
    --profile "$PROFILE" --out "$RUN/table.md"
