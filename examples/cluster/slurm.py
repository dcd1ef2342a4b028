"""Train a recipe's networks as SLURM jobs: each starts when those that it is made of are there.

    python examples/cluster/slurm.py mine.yaml --out runs/mine -- --gres=gpu:1 --time=04:00:00

What stands behind `--` goes to sbatch. The folder must be seen by all nodes, and `bootdiff` be found there. Called
again after a failure, jobs go on where they were: what is complete takes a moment.
"""

import argparse
import json
import shlex
import subprocess
import sys

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("recipe")
parser.add_argument("--out", required=True, help="the run's folder")
own, sbatch = sys.argv[1:], []
if "--" in own:
    own, sbatch = own[: own.index("--")], own[own.index("--") + 1 :]
args = parser.parse_args(own)
stages = json.loads(subprocess.check_output(["bootdiff", "stages", args.recipe, "--json"]))


def submit(name: str, words: list[str], after: list[str]) -> str:
    wait = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
    command = ["sbatch", "--parsable", f"--job-name={name}", *wait, *sbatch, "--wrap", shlex.join(words)]
    job = subprocess.check_output(command, text=True).strip().partition(";")[0]
    print(job, name)
    return job


fit = ["bootdiff", "fit", args.recipe, "--out", args.out]
jobs: dict[str, str] = {}
for row in stages:
    jobs[row["stage"]] = submit(row["stage"], [*fit, "--stage", row["stage"]], [jobs[name] for name in row["made_of"]])
submit("bootdiff", fit, list(jobs.values()))
