#!/bin/bash
# Answers a file of requests with one model on two nodes of a Slurm cluster:
#
#     sbatch examples/clusters/slurm.sh model.gguf requests.jsonl results.jsonl
#
# srun starts the same command once on each node; tplaunch finds in Slurm's variables which node is the head
# and where that is. Without --gres a node's integrated GPU or CPU is taken.
#
#SBATCH --job-name=tplaunch
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.log

set -euo pipefail

model=${1:?usage: sbatch slurm.sh MODEL REQUESTS RESULTS}
requests=${2:?a file of requests is needed}
results=${3:?a file for the results is needed}

# By this file the nodes know each other. The home folder is one that all nodes see; each user has a key.
key=${TPLAUNCH_KEY:-$HOME/.config/tplaunch/hosts.key}
if [[ ! -e $key ]]; then
    tplaunch keygen "$key"
fi

# A node that fails ends the others. A job that was broken off goes on where it was when it is submitted again.
srun --kill-on-bad-exit=1 \
    tplaunch batch --key "$key" "$model" "$requests" --out "$results"
