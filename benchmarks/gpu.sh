#!/usr/bin/env bash
# What there is to find out on a GPU, in about ten minutes: whether the kernels are right there, and how fast.
#
#   benchmarks/gpu.sh                    on a machine with a GPU; figures go to benchmarks/results/gpu
#   OUT=DIR PYTHON=python3.12 benchmarks/gpu.sh
#   benchmarks/gpu.sh --rehearse         the same at small sizes on the CPU, which is also what happens without a GPU
#   benchmarks/gpu.sh --only step        one part: tests, kernels, step or model (may be repeated)
#   benchmarks/gpu.sh --seconds 1200     how long all of it may take (default 570)
#
# It wants torch, triton, einops, numpy, safetensors, tokenizers and pytest, and of the repository kernels, operators,
# jobs, src, tests/conftest.py, tests/kernels, tests/operators, benchmarks and pyproject.toml. Parts come in the order of
# their worth, and each gets its share of the time that is left. Run again it goes on: a part that was finished by the
# same code on the same GPU is not run again (remove its file for that). Files: summary.json, log.txt, tests.jsonl (a
# line a test file), kernels.json, step.json, model.json; and PART.before.json while a part that was cut off is redone.
#
# Exit codes: 0 all done, 1 a part failed, 2 it cannot be run so, 3 nothing failed but something is left: run it again.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

PYTHON=${PYTHON:-python3}
PARTS=(tests kernels step model)
declare -A SHARE=([tests]=200 [kernels]=210 [step]=70 [model]=90)
GPU_OUT=benchmarks/results/gpu
REHEARSAL_OUT=bench-kernels/rehearsal

usage() {
    echo "gpu.sh: $1 (see the top of the file)" >&2
    exit 2
}

rehearse='' budget=570 only=()
while (($#)); do
    case $1 in
    --rehearse) rehearse=1 ;;
    --only)
        case ${2-} in tests | kernels | step | model) only+=("$2") ;; *) usage "--only ${2-}: one of ${PARTS[*]}" ;; esac
        shift
        ;;
    --seconds)
        [[ ${2-} =~ ^[1-9][0-9]*$ ]] || usage "--seconds ${2-}: a whole number is wanted"
        budget=$2
        shift
        ;;
    *) usage "$1: no such option" ;;
    esac
    shift
done
((${#only[@]})) && PARTS=("${only[@]}")

export PYTHON PYTHONUNBUFFERED=1 PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
# What pytest finds installed beside it must not decide what is run, or whether.
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
[[ -z $rehearse ]] || export CUDA_VISIBLE_DEVICES=''

record() { "$PYTHON" benchmarks/gpu_record.py "$@"; }

GPU_RUN_MACHINE=$(record machine) || exit 2
if [[ $GPU_RUN_MACHINE == *'"gpu": null'* ]]; then
    [[ -n $rehearse ]] || echo "no GPU here: this is a rehearsal on the CPU" >&2
    rehearse=1
fi
if [[ -n $rehearse ]]; then
    export TRITON_INTERPRET=1 OMP_NUM_THREADS=1
    OUT=${OUT:-$REHEARSAL_OUT}
    GPU_RUN_REHEARSAL='a rehearsal on the CPU at small sizes: its times say nothing of a GPU'
else
    export TRITON_INTERPRET=0
    OUT=${OUT:-$GPU_OUT}
    GPU_RUN_REHEARSAL=''
fi
case $(realpath -m "$OUT")/ in
"$(realpath -m benchmarks)"/*) [[ -z $rehearse ]] || usage "OUT=$OUT: a rehearsal does not go where figures are kept" ;;
esac

# The code that is measured, and not the commit alone: a copy of the repository may have no history, or be changed.
code=$(find kernels operators jobs tests/conftest.py tests/kernels tests/operators benchmarks -name '*.py' \
    -o -path 'benchmarks/gpu.sh' | LC_ALL=C sort | xargs cat | sha256sum | cut -c1-16)
commit=$(git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null) || commit=${LONGTAKE_COMMIT:-unknown}
export OUT GPU_RUN_MACHINE GPU_RUN_REHEARSAL GPU_RUN_CODE=$code LONGTAKE_COMMIT=$commit
WORK=$(mktemp -d) || exit 2
export WORK
trap 'rm -rf "$WORK"' EXIT
record begin || exit 2
exec 3>>"$OUT/log.txt"

# Kernels natively, and what of the network waits for a GPU, wherever it lies. What takes long comes first, since
# they run side by side: training, then the long files.
wanted_tests() {
    if [[ -n $GPU_RUN_REHEARSAL ]]; then
        ls tests/kernels/test_{dispatch,graphs,token_codec}.py
    else
        echo tests/kernels/test_training.py
        ls -S tests/kernels/test_*.py | grep -v /test_training.py
    fi
    grep -rl --include='test_*.py' 'skipif(not torch.cuda.is_available()' tests/operators | LC_ALL=C sort
}

one_test() {
    local began=$SECONDS log status=0
    log=$WORK/${1//\//.}.log
    "$PYTHON" -m pytest -q -ra --tb=short -p no:cacheprovider -o addopts=--import-mode=importlib "$1" \
        >"$log" 2>&1 </dev/null || status=$?
    "$PYTHON" benchmarks/gpu_record.py test "$1" "$status" "$((SECONDS - began))" "$log"
}
export -f one_test

run_part() { # PART SECONDS: what it says goes to the log, and no pipe waits for processes that outlive it
    local part=$1 limit=$2 small=()
    local bench=(timeout -k 10 "$limit" "$PYTHON" -m longtake.jobs.main bench "$part")
    case $part in
    tests)
        # Compiling takes most of the time, on the CPU: a few files at a time.
        local beside=$(($(nproc) / 2))
        beside=$((beside < 2 ? 2 : beside > 8 ? 8 : beside))
        record tests-left | timeout -k 10 "$limit" xargs -r -P "$beside" -I '{}' \
            bash -c 'one_test "$1"' one_test '{}'
        ;;
    kernels)
        # It begins nothing new after its own limit, and needs some time to end what it has begun.
        local seconds=$((limit > 80 ? limit - 40 : limit / 2 + 1))
        "${bench[@]}" --product --minutes "$(printf '%d.%02d' $((seconds / 60)) $((seconds % 60 * 100 / 60)))" --out "$OUT"
        ;;
    step)
        [[ -z $GPU_RUN_REHEARSAL ]] || small=(--preset tiny)
        "${bench[@]}" --lanes 16 "${small[@]}" --out "$OUT/step.json"
        ;;
    model)
        small=(--preset base)
        [[ -z $GPU_RUN_REHEARSAL ]] || small=(--preset tiny --lanes 2 --frames 32)
        "${bench[@]}" "${small[@]}" --out "$OUT/model.json"
        ;;
    esac
}

wanted_tests >"$WORK/wanted"
pending=()
for part in "${PARTS[@]}"; do
    if record pending "$part"; then pending+=("$part"); else echo "$part: done before"; fi
done
while ((${#pending[@]})); do
    part=${pending[0]} shares=0
    for other in "${pending[@]}"; do shares=$((shares + SHARE[$other])); done
    pending=("${pending[@]:1}")
    limit=$(((budget - SECONDS) * SHARE[$part] / shares))
    if ((limit < 1)); then
        echo "$part: left out: the time is up"
        continue
    fi
    echo "$part: at most $limit s"
    record start "$part"
    printf '\n===== %s: %s, at most %s s\n' "$part" "${GPU_RUN_REHEARSAL:-on the GPU}" "$limit" >&3
    began=$SECONDS status=0
    run_part "$part" "$limit" >&3 2>&3 || status=$?
    for log in "$WORK"/*.log; do
        # A test file that was cut off.
        [[ -e $log ]] && { echo "--- cut off: ${log##*/}" && tail -n 60 "$log" && rm "$log"; } >&3
    done
    rm -f "$OUT/kernels.csv" "$OUT/kernels.png"
    record took "$part" "$status" "$((SECONDS - began))" "$limit"
done
record finish "${PARTS[@]}"
