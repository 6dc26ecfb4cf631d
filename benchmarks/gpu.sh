#!/usr/bin/env bash
# Everything that only a GPU can show, in at most 8 minutes, without a network.
#
#     benchmarks/gpu.sh OUT [WHEELS]
#
# OUT is a folder: rows.jsonl gets a row for each measurement, PART.log what a part printed. WHEELS is a folder of wheels
# of what seqdni needs, if the Python at hand has torch but not the rest; they go into a temporary folder. Environment:
# PARTS (default: all of them, in this order), SECONDS_IN_ALL (default: 480), PYTHON (default: python3).
#
# tests    those of tests/seqdni/test_gpu.py without graphs
# graphs   those of captured chunks: they train as eager chunks do, and nothing waits
# syncs    what waits for the device, and what no graph could compute, and why
# table    chunk_step.py: T 2 4 8 20, 256 512 1024 units (a process each), 32 and 256 rows
# kernels  the same with kernels a chunk and the busy share, at T = 4
# copy     the paper's copy cell (256 units, 256 rows, T = 4): TBPTT and DNI, captured, three seeds side by side
set -uo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
out="$(mkdir -p "$1" && cd "$1" && pwd)"
python="${PYTHON:-python3}"
end=$(($(date +%s) + ${SECONDS_IN_ALL:-480}))
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export PYTHONSAFEPATH=1 PYTHONPATH="$work/site:$work/links:$root/benchmarks" OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
if [ $# -gt 1 ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$work/site" "$2"/*.whl
fi
"$root/.ci/links" "$work/links"
cd "$root"

# part NAME SECONDS COMMAND...: run a part if it was asked for, for at most so many seconds of those that are left.
part() {
    local name="$1" most="$2" left
    shift 2
    [[ " ${PARTS:-tests graphs syncs table kernels copy} " == *" $name "* ]] || return 0
    left=$((end - $(date +%s)))
    [ "$left" -lt "$most" ] && most="$left"
    if [ "$most" -lt 5 ]; then
        echo "== $name: no time left"
        return 0
    fi
    echo "== $name (at most $most s)" | tee -a "$out/$name.log"
    timeout -k 5 "$most" "$@" >>"$out/$name.log" 2>&1
    echo "exit status $?, $((end - $(date +%s))) s left" >>"$out/$name.log"
    tail -n "${TAIL:-40}" "$out/$name.log"
}

copy_cell() {
    local seconds="$1" seed trainer
    for seed in 41 42 43; do
        for trainer in tbptt dni; do
            "$python" -m seqdni run copy --hidden 256 --batch 256 --chunk-len 4 --trainer "$trainer" --seed "$seed" \
                --capture "${CAPTURE:-true}" --updates 10000000 --max-seconds "$seconds" --threads 1 --device "${DEVICE:-cuda}" \
                --out "$out/copy-$trainer-$seed" >"$out/copy-$trainer-$seed.log" 2>&1 &
        done
    done
    wait
    for seed in 41 42 43; do
        for trainer in tbptt dni; do
            "$python" - "$out" "$trainer" "$seed" <<'PYTHON'
import json, sys, pathlib, torch
out, trainer, seed = sys.argv[1:]
folder = pathlib.Path(out) / f"copy-{trainer}-{seed}"
try:
    result = json.loads((folder / "result.json").read_text())
except OSError:
    print(trainer, seed, "no result:", folder.with_suffix(".log").read_text()[-300:])
    sys.exit()
kept = ("trainer", "chunk_len", "seed", "updates", "wall_seconds", "solved_length", "solved_at", "torch", "captured_chunks", "eager_chunks")
row = {"program": "seqdni run copy, captured", "hidden": 256, "batch": 256, **{k: result[k] for k in kept if k in result}}
row["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
with open(f"{out}/rows.jsonl", "a") as file:
    file.write(json.dumps(row) + "\n")
print(row)
PYTHON
        done
    done
}
export -f copy_cell
export out python

device="${DEVICE:-cuda}"
both=("by hand" "by hand captured" tbptt "tbptt captured" dni "dni captured" "dni rls" "dni rls captured" look-ahead "look-ahead captured" critic "critic captured")
test_gpu=("$python" -m pytest -n 0 -p no:cacheprovider -o addopts="" -m gpu -q --tb=short tests/seqdni/test_gpu.py)
part tests 80 "${test_gpu[@]}" -k "not graph"
part graphs 110 "${test_gpu[@]}" -k graph
part syncs 60 "$python" benchmarks/gpu_syncs.py
for hidden in ${HIDDEN:-256 512 1024}; do
    part "table" "${TABLE_SECONDS:-80}" "$python" benchmarks/chunk_step.py --device "$device" --json "$out/rows.jsonl" \
        --seconds "${CELL_SECONDS:-3}" --hidden "$hidden" --batch ${BATCH:-32 256} --chunk-len ${CHUNK_LEN:-4 8 2 20} --trainers "${both[@]}"
done
part kernels 50 "$python" benchmarks/chunk_step.py --device "$device" --json "$out/rows.jsonl" --seconds 1 --kernels \
    --hidden 256 1024 --batch 32 --chunk-len 4 --trainers "${both[@]}"
part copy 110 bash -c "copy_cell ${COPY_SECONDS:-60}"
