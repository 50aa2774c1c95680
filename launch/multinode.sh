#!/usr/bin/env bash
# Train on several machines that share nothing but a network and this folder's path: one accelerate launch each.
#
# From one machine, over ssh, to this same folder on every host:
#   HOSTS="a b" launch/multinode.sh --model.depth 8
# or by hand, the same line on every machine but for NODE_RANK:
#   NODES=2 NODE_RANK=0 HEAD=a launch/multinode.sh --model.depth 8
#   NODES=2 NODE_RANK=1 HEAD=a launch/multinode.sh --model.depth 8
#
# Arguments go to the command. Variables, with their defaults:
#   HOSTS               machines, separated by blanks; the first is the head. Empty, or NODE_RANK set: this is one of them
#   NODES, NODE_RANK    how many machines, and which this is, from 0
#   HEAD                address of machine 0 as the others reach it (first of HOSTS)
#   PORT                free port of HEAD that its firewall lets the others reach (29500)
#   PROCESSES_PER_NODE  the same on every machine (one a GPU of this machine; 1 where there is none)
#   COMMAND             train or doctor (train)
#   CONFIG              configuration of the run (configs/experiments/digits.yaml)
#   ACCELERATE_CONFIG   file for accelerate launch (configs/accelerate/gpu-multinode.yaml, or cpu-multinode.yaml)
#   INTERFACE           network interface for gloo and NCCL, such as eth1 (theirs to choose)
#   VENV                environment to run in (.venv where there is one, else what is on PATH)
#   SSH                 command that takes a host and a command line (ssh -o BatchMode=yes)
#
# SIGTERM or SIGINT to this process, its death or the failure of one machine end all of them. Exit status: 0, or
# that of the first machine to fail, which is the launcher's 1 for every failure of the trainer.
set -euo pipefail

fail() { echo "error: $*" >&2; exit 2; }

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
  exit
fi
gpus=0
if command -v nvidia-smi >/dev/null; then gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU') || true; fi
if ((gpus > 0)); then kind=gpu; else kind=cpu; fi
PROCESSES_PER_NODE=${PROCESSES_PER_NODE:-$((gpus > 0 ? gpus : 1))}
ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-configs/accelerate/$kind-multinode.yaml}
CONFIG=${CONFIG:-configs/experiments/digits.yaml}
COMMAND=${COMMAND:-train}
PORT=${PORT:-29500}
VENV=${VENV:-.venv}

# Every machine watches its standard input, a pipe that only this process holds open: when this process closes it
# or dies, however that happens, each machine stops its launcher.
over_ssh() {
  local hosts pipes rank code status=0
  read -r -a hosts <<<"$HOSTS"
  ((${#hosts[@]} > 0)) || fail "HOSTS: '$HOSTS' names no machine; allowed: names separated by blanks"
  HEAD=${HEAD:-${hosts[0]#*@}} NODES=${#hosts[@]}
  pipes=$(mktemp -d)
  mkfifo "$pipes/held" "$pipes/statuses"
  exec 3<>"$pipes/held"
  exec 4<"$pipes/held" 5<>"$pipes/statuses"
  rm -r "$pipes"
  trap 'exec 3>&-' TERM INT HUP
  for rank in "${!hosts[@]}"; do
    one_host "${hosts[$rank]}" "$rank" "$@" <&4 3>&- 4<&- &
  done
  for _ in "${hosts[@]}"; do
    read -r code <&5
    if ((code != 0 && status == 0)); then
      status=$code
      exec 3>&-
    fi
  done
  return "$status"
}

one_host() {
  local host=$1 NODE_RANK=$2 line name ssh code=0
  shift 2
  line="cd $(printf %q "$PWD") && env HOSTS= STOP_AT_EOF=1"
  for name in NODES NODE_RANK HEAD PORT PROCESSES_PER_NODE COMMAND CONFIG ACCELERATE_CONFIG INTERFACE VENV \
    OMP_NUM_THREADS PYTHONPATH; do
    [[ -z ${!name:-} ]] || line+=" $(printf %q "$name=${!name}")"
  done
  line+=" bash launch/multinode.sh$([[ $# -eq 0 ]] || printf ' %q' "$@")"
  read -r -a ssh <<<"${SSH:-ssh -o BatchMode=yes}"
  "${ssh[@]}" "$host" "$line" 5>&- || code=$?
  echo "$code" >&5
}

if [[ -n ${HOSTS:-} && -z ${NODE_RANK:-} ]]; then
  over_ssh "$@"
  exit
fi

for name in NODES NODE_RANK HEAD; do
  [[ -n ${!name:-} ]] || fail "$name: not set; allowed: HOSTS, or NODES, NODE_RANK and HEAD"
done
for name in NODES PROCESSES_PER_NODE PORT; do
  [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "$name: '${!name}' is not usable; allowed: integers from 1"
done
if [[ ! $NODE_RANK =~ ^[0-9]+$ ]] || ((NODE_RANK >= NODES)); then
  fail "NODE_RANK: '$NODE_RANK' is not usable; allowed: 0 to $((NODES - 1))"
fi
if [[ -d $VENV/bin ]]; then PATH=$(cd "$VENV/bin" && pwd):$PATH; fi
command -v accelerate >/dev/null || fail "VENV: no accelerate in '$VENV/bin' or on PATH; allowed: an environment with scaled-sgd"
[[ -f $ACCELERATE_CONFIG ]] || fail "ACCELERATE_CONFIG: no file '$ACCELERATE_CONFIG'"
if [[ -n ${INTERFACE:-} ]]; then export GLOO_SOCKET_IFNAME=$INTERFACE NCCL_SOCKET_IFNAME=$INTERFACE; fi

processes=$((NODES * PROCESSES_PER_NODE))
case $COMMAND in
  train)
    module=scaled_sgd.train
    [[ -f $CONFIG ]] || fail "CONFIG: no file '$CONFIG'"
    set -- --config "$CONFIG" "$@"
    ;;
  doctor)
    module=scaled_sgd.planning.doctor
    set -- --processes "$processes" "$@"
    ;;
  *) fail "COMMAND: '$COMMAND' is unknown; allowed: train, doctor" ;;
esac
launch=(accelerate launch --config_file "$ACCELERATE_CONFIG" --num_machines "$NODES" --machine_rank "$NODE_RANK"
  --num_processes "$processes" --main_process_ip "$HEAD" --main_process_port "$PORT" -m "$module" "$@")

trap '' USR1  # for the trainer, which saves; the launcher would die of it and leave the trainer behind
[[ -n ${STOP_AT_EOF:-} ]] || exec "${launch[@]}"

exec 3<&0
"${launch[@]}" </dev/null 3<&- &
launcher=$!
{ while read -r -u 3 _; do :; done; kill -TERM "$launcher"; } >/dev/null 2>&1 &
watch=$!
trap 'kill -TERM "$launcher" 2>/dev/null || true' TERM INT HUP
while kill -0 "$launcher" 2>/dev/null; do wait "$launcher" || true; done  # which a signal interrupts
status=0
wait "$launcher" || status=$?
kill "$watch" 2>/dev/null || true
exit "$status"
