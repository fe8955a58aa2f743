# Sourced by profile.sh: the stages that the experiments share, as functions. Expects what profile.sh sets.

hold_out() { # over which classes is the balanced one? The miniature world knows its own; else the nearest reference class
    local classes=(--embeddings "$RUN/candidates" --reference "$RUN/reference")
    if [ "$CORPUS" = "$RUN/world/corpus" ]; then
        classes=(--labels "$RUN/world/truth.parquet")
    else
        python -m prune.embed --corpus "$CORPUS" --scores "$RUN/scores" --keep 1 --sample "$CANDIDATES" "${ENCODER[@]}" \
            --out "$RUN/candidates"
    fi
    python -m data.holdout --scores "$RUN/scores" --n "$HOLDOUT" "${classes[@]}" --out "$RUN/holdout.parquet"
}

train_vae() { # VAE=train: a small AutoencoderKL, trained on the unpruned pool and shared by all methods
    if [ "$VAE" != train ]; then return 0; fi
    VAE="$RUN/vae"
    python -m dit.train_vae --preset mini-f8 --corpus "$CORPUS" --scores "$RUN/scores" --holdout "$RUN/holdout.parquet" \
        --image-size "$IMAGE_SIZE" --steps "${VAE_STEPS:-1600}" --validation-images 128 --scale-images 512 --out "$VAE"
}

select_subset() { # METHOD SEED: rsprune or random, which is drawn anew for each seed
    local inputs=(--seed "$2")
    if [ "${1%-seed*}" = rsprune ]; then inputs+=(--assignments "$RUN/assignments" --keep "$KEEP"); fi
    python -m prune.select --method "${1%-seed*}" --scores "$RUN/scores" --holdout "$RUN/holdout.parquet" \
        "${inputs[@]}" --ratio "$RATIO" --out "$RUN/subsets/$1.parquet"
}

task_data() { # TASK: sr or sis
    case "$1" in
    sr) echo "${SECOND_ROOT:-$RUN/world/sr}" ;;
    sis) echo "${OEM_ROOT:-$RUN/world/sis}" ;;
    esac
}

launch() { # MODULE ARGS: through accelerate on every GPU of this machine, or on the CPU; skipped when finished
    local code=0
    python -m "$@" --is-done || code=$?
    if [ "$code" = 0 ]; then return 0; fi
    if [ "$code" != 3 ]; then return "$code"; fi # 3 = work left; anything else is a refusal
    local gpus arguments=(--num_machines 1 --dynamo_backend no)
    gpus="${GPUS:-$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)}"
    if [ "${gpus:-0}" = 0 ]; then
        arguments+=(--cpu --num_processes 1 --num_cpu_threads_per_process "${OMP_NUM_THREADS:-$(nproc)}" --mixed_precision no)
    else
        arguments+=(--num_processes "$gpus" --mixed_precision no) # the trainer sets precision itself (--precision)
        if [ "$gpus" -gt 1 ]; then arguments+=(--multi_gpu); fi
        # torch.compile needs a C compiler; COMPILE=no leaves it out
        if [ "${COMPILE:-yes}" = yes ] && command -v "${CC:-gcc}" >/dev/null; then set -- "$@" --compile; fi
    fi
    accelerate launch "${arguments[@]}" -m "$@"
}
