# Sourced by the experiments: the sizes of a profile, and a check of its needs.
# Expects EXPERIMENT, CORPUS_ROOT, RATIO and KEEP; leaves RUN, CORPUS, REFERENCE, VAE and the arrays below.

if [ -z "${PROFILE:-}" ]; then
    if [ -n "$CORPUS_ROOT" ]; then PROFILE=paper; else PROFILE=mini; fi
fi
if [ "$PROFILE" = mini ]; then RSPRUNE_EXTRAS="${RSPRUNE_EXTRAS:-mini}"; fi # a judge that comes in a package
source scripts/env.sh
source experiments/methods.sh # each_method
source experiments/stages.sh  # hold_out, train_vae, select_subset, task_data, launch

if [ -n "${ARMS:-}" ] && [ -z "${METHODS:-}" ]; then
    echo "note: ARMS is now called METHODS" >&2
    METHODS="$ARMS"
fi

case "$PROFILE" in
mini) # everything small enough for two CPU cores; nothing faked
    # One variable for each thing that a curious user may want to turn.
    HOLDOUT="${HOLDOUT:-200}" IMAGE_SIZE="${IMAGE_SIZE:-64}" CLUSTERS="${CLUSTERS:-48}" METHODS="${METHODS:-rsprune random}"
    MODEL="${MODEL:-DiT-mini/2}" STEPS="${STEPS:-2000}" BATCH="${BATCH:-32}" CANDIDATES="${CANDIDATES:-5000}"
    # The hand-made descriptor needs whitening (K and D as in prune.judge); Git-RSCLIP is used as it is.
    ENCODER=(--encoder descriptor) WHITEN="${WHITEN:-32}"
    TRAINING=(--learning-rate 2e-3 --schedule cosine --warmup 100 --ema-decay 0.995 --log-every 100 --checkpoint-every 500)
    SAMPLING=(--weights ema --sampler ddim --steps 25) LOSS=(--weights ema)
    FINETUNE=(--image-size "$IMAGE_SIZE" --steps "${TUNE_STEPS:-200}" --batch 16 --learning-rate 2e-3 --schedule cosine
        --warmup 30 --ema-decay 0.98 --log-every 50 --checkpoint-every 100 --hr-size 128 --tile-size 128 --factor 4)
    DOWNSTREAM_SAMPLING=(--weights ema --sampler ddim --steps 20 --crops grid --limit 120)
    SEGMENTER_TRAINING=(--image-size "$IMAGE_SIZE" --tile-size 128 --batch 8 --steps "${SEGMENTER_STEPS:-100}")
    # The descriptor chooses here, so another network judges: one that comes in a package of its own.
    JUDGE=(--extractor efficientnet-lite0 --perceptual efficientnet-lite0)
    ;;
paper) # Sec. 4.1; what the paper leaves open is stated beside each flag in --help
    HOLDOUT="${HOLDOUT:-5000}" IMAGE_SIZE=256 CLUSTERS="${CLUSTERS:-200}" METHODS="${METHODS:-rsprune}"
    MODEL="${MODEL:-DiT-XL/2}" STEPS="${STEPS:-100000}" BATCH="${BATCH:-256}" CANDIDATES="${CANDIDATES:-200000}"
    ENCODER=(--encoder git-rsclip --weights "${GIT_RSCLIP:-lcybuaa/Git-RSCLIP}") WHITEN=0
    TRAINING=(--learning-rate 1e-4 --ema-decay 0.9999 --precision bf16 --log-every 100 --checkpoint-every 5000)
    SAMPLING=(--weights ema --sampler ddpm --steps 250) LOSS=(--weights both)
    FINETUNE=(--image-size 256 --steps 5000 --batch 256 --learning-rate 1e-4 --ema-decay 0.9999 --precision bf16
        --log-every 50 --checkpoint-every 1000 --hr-size 512 --tile-size 1024 --factor 8)
    DOWNSTREAM_SAMPLING=(--weights ema --sampler ddpm --steps 250)
    SEGMENTER_TRAINING=(--image-size 256 --tile-size 1024)
    JUDGE=(--extractor inception --perceptual alex)
    ;;
*)
    echo "error: PROFILE=$PROFILE; expected mini or paper" >&2
    exit 2
    ;;
esac

SEEDS="${SEEDS:-0}" # of trainings; of several ("0 1 2") the table has intervals over trainings, paired by seed

if [ "$PROFILE" = paper ]; then
    python -m data.check --profile paper --experiment "$EXPERIMENT" --holdout "$HOLDOUT" || exit $?
fi

# Where results go: one folder for each experiment, profile and corpus.
corpus_name() { # of a folder or a specification: its last part, without options and what shells would expand
    local name="${CORPUS_ROOT%%\?*=*}"
    name="$(basename "${name:-world}")"
    echo "${name//[^A-Za-z0-9._-]/_}"
}
RUN="${RUN:-runs/$EXPERIMENT-$PROFILE-$(corpus_name)}"
export WANDB_DIR="${WANDB_DIR:-$RUN}"
mkdir -p "$RUN"

if [ "$PROFILE" = mini ]; then
    echo "================================================================================"
    echo "MINI PROFILE: small models, a few minutes on a CPU. Its numbers are not the paper's."
    echo "The real experiment: GIT10M_ROOT=/data/Git-10M REFERENCE_ROOT=/data/NWPU-RESISC45 \\"
    echo "  SECOND_ROOT=/data/SECOND OEM_ROOT=/data/OpenEarthMap bash experiments/$EXPERIMENT.sh"
    echo "Results: $RUN"
    echo "================================================================================"
    for missing in CORPUS_ROOT REFERENCE_ROOT SECOND_ROOT OEM_ROOT; do
        if [ -z "${!missing:-}" ]; then need_world=yes; fi
    done
    if [ -n "${need_world:-}" ]; then python -m world.build --out "$RUN/world" --tiles "${TILES:-3000}"; fi
    for missing in REFERENCE_ROOT SECOND_ROOT OEM_ROOT; do
        if [ -n "$CORPUS_ROOT" ] && [ -z "${!missing:-}" ]; then
            echo "note: $missing is not set; the miniature world's own stands in for it"
        fi
    done
fi
CORPUS="${CORPUS_ROOT:-$RUN/world/corpus}"
REFERENCE="${REFERENCE_ROOT:-$RUN/world/reference}"

# mini: the small f = 8 VAE that comes with the code; VAE=train trains one on the pool instead.
if [ "$PROFILE" != mini ]; then VAE="${SD_VAE:-stabilityai/sd-vae-ft-ema}"; else VAE="${VAE:-mini-f8}"; fi
