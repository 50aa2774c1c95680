#!/usr/bin/env bash
# Train on one machine through accelerate launch. Run it from the root of the clone.
#
#   launch/local.sh --model.depth 8
#   PROCESSES=4 CONFIG=configs/experiments/digits.yaml launch/local.sh
#   COMMAND=doctor launch/local.sh
#
# Arguments go to the command. Variables, with their defaults:
#   COMMAND            train or doctor (train)
#   CONFIG             configuration of the run (configs/experiments/digits.yaml)
#   PROCESSES          how many (one a GPU; 2 where there is none)
#   ACCELERATE_CONFIG  file for accelerate launch (configs/accelerate/gpu.yaml; cpu.yaml where there is no GPU)
#   VENV               environment to run in (.venv where there is one, else what is on PATH)
#
# SIGTERM or SIGINT to this process ends all of them. Exit status: 0, or the launcher's 1 for every failure;
# scaled-sgd train --run.processes N passes on the trainer's own.
set -euo pipefail

fail() { echo "error: $*" >&2; exit 2; }

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
  exit
fi
VENV=${VENV:-.venv}
if [[ -d $VENV/bin ]]; then PATH=$(cd "$VENV/bin" && pwd):$PATH; fi
command -v accelerate >/dev/null || fail "VENV: no accelerate in '$VENV/bin' or on PATH; allowed: an environment with scaled-sgd"

gpus=0
if command -v nvidia-smi >/dev/null; then gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU') || true; fi
if ((gpus > 0)); then kind=gpu; else kind=cpu; fi
PROCESSES=${PROCESSES:-$((gpus > 0 ? gpus : 2))}
ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-configs/accelerate/$kind.yaml}
COMMAND=${COMMAND:-train}
[[ $PROCESSES =~ ^[1-9][0-9]*$ ]] || fail "PROCESSES: '$PROCESSES' is not usable; allowed: integers from 1"
[[ -f $ACCELERATE_CONFIG ]] || fail "ACCELERATE_CONFIG: no file '$ACCELERATE_CONFIG'"

case $COMMAND in
  train)
    module=scaled_sgd.train
    CONFIG=${CONFIG:-configs/experiments/digits.yaml}
    [[ -f $CONFIG ]] || fail "CONFIG: no file '$CONFIG'"
    set -- --config "$CONFIG" "$@"
    ;;
  doctor)
    module=scaled_sgd.planning.doctor
    set -- --processes "$PROCESSES" "$@"
    ;;
  *) fail "COMMAND: '$COMMAND' is unknown; allowed: train, doctor" ;;
esac

trap '' USR1  # for the trainer, which saves; the launcher would die of it and leave the trainer behind
exec accelerate launch --config_file "$ACCELERATE_CONFIG" --num_machines 1 --num_processes "$PROCESSES" \
  -m "$module" "$@"
