#!/usr/bin/env bash
# All arms of the three recipes on 32 x 32 cats: experiments/scripts/cats32.sh [SEED ...]. Hours on one core; goes on when interrupted.
# First: python experiments/scripts/prepare.py --data DIR
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
if [ $# -eq 0 ]; then set -- 0 1 2; fi
for seed in "$@"; do
  # Full-only and oracle are the same for all three; runs/cats32-full may hold them from before.
  reuse=()
  if [ -d "runs/cats32-full/seed-$seed" ]; then reuse+=(--reuse "runs/cats32-full/seed-$seed"); fi
  for name in thumbnails two-views useless; do
    out="runs/cats32-$name/seed-$seed"
    .venv/bin/bootdiff arms "experiments/recipes/cats32-$name.yaml" --seed "$seed" --out "$out" "${reuse[@]}"
    reuse+=(--reuse "$out")
    mkdir -p "experiments/results/cats32-$name"
    cp "$out/metrics.json" "experiments/results/cats32-$name/seed-$seed.json"
  done
  # Full-only and oracle once more, with the compute of all of bootdiff's networks.
  out="runs/cats32-equal-compute/seed-$seed"
  .venv/bin/bootdiff arms experiments/recipes/cats32-equal-compute.yaml --seed "$seed" --out "$out" --arm full_only --arm oracle
  mkdir -p experiments/results/cats32-equal-compute
  cp "$out/metrics.json" "experiments/results/cats32-equal-compute/seed-$seed.json"
done
