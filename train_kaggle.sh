#!/usr/bin/env bash
# The recipe: environment, arguments, then one line per stage. `bash train_kaggle.sh -h` explains the flags.
set -euo pipefail

bold='' green='' red='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
  bold=$'\033[1m' green=$'\033[32m' red=$'\033[31m' plain=$'\033[0m'
fi

usage() {
  sed -E "s/^([A-Z][A-Z ]+)\$/$bold\\1$plain/" <<'TEXT'
NAME
    train_kaggle.sh - from price files to a trained Kronos, a backtest and a submission

SYNOPSIS
    bash train_kaggle.sh [--config FILE] [--set SECTION.KEY=VALUE]... [options]

WHAT RUNS
    --config FILE            YAML or JSON configuration (default: configs/kaggle.yaml)
    --set SECTION.KEY=VALUE  override one setting (all of them: kronos/config.py); may be repeated
    --skip-tokenizer         train the predictor only, on the trained tokenizer
    --skip-basemodel         train the tokenizer only (also: --skip-predictor)
    --skip-existing          skip complete stages, resume interrupted ones; without it: start anew
    --fast-mode              shorten every stage to a smoke run, in a folder NAME-fast of its own
    --submit                 write a submission file afterwards
    --dry-run                check everything, print what would run and how long, write nothing

WHERE IT RUNS
    --multi-gpu [N]          N GPUs of each machine (default: all)
    --num-gpus N             the same, with the number always given
    --cpu                    no GPU, also where there is one
    --num-processes N        training processes over all machines, instead of --multi-gpu
    --dist-backend NAME      nccl or gloo
    --num-machines N, --machine-rank R, --main-process-ip IP, --main-process-port PORT
                             one launch per machine, R from 0; all of them with the same IP and PORT

    -h, --help               this page

FILES
    runs/NAME                models, loss curves, log and backtest; NAME: model_paths.exp_name
    submissions              submission files; relative paths of a configuration start in the kit's folder

SIGNALS AND STATUS
    Ctrl-C, SIGTERM or a lost terminal saves a resumable state, a second signal ends at once. 0 done, or
    saved at training.time_limit; 2 a mistake, in one line; 130, 143 interrupted. NO_COLOR=1: no colours.

EXAMPLES
    bash train_kaggle.sh --config configs/demo.yaml --submit
    bash train_kaggle.sh --multi-gpu 8
    bash train_kaggle.sh --skip-existing --multi-gpu 8 --set training.batch_size=64
TEXT
}

start_dir=$PWD
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/env.sh
source "$root/scripts/env.sh"

# ---- arguments: every flag becomes a configuration override, so that the saved configuration tells the whole run --------
config="$root/configs/kaggle.yaml"
overrides=()
plan_flags=()
gpus=  # of each machine: a number or all
total= # processes over all machines
wants_cpu=0
submit=0
dry_run=0

put() { overrides+=(--set "$1"); }
value_of() { # FLAG VALUE-OR-NOTHING
  [ $# -ge 2 ] && [ "${2#--}" = "$2" ] || kit_fail "$1: expected a value after it"
  printf '%s' "$2"
}
count_of() {
  local value
  value=$(value_of "$@") || exit 2
  [[ $value =~ ^[1-9][0-9]*$ ]] || kit_fail "$1: expected a whole number above 0, found $value"
  printf '%s' "$value"
}
processes() {
  put "distributed.num_processes=$1"
  if [ "$1" -gt 1 ]; then put distributed.use_ddp=true; else put distributed.use_ddp=false; fi
}

while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --config) config=$(value_of "$@"); shift ;;
    --set) [ $# -ge 2 ] || kit_fail "--set: expected section.key=value after it"; put "$2"; shift ;;
    --multi-gpu)
      if [[ ${2:-} =~ ^[0-9]+$ ]]; then gpus=$(count_of "$@") || exit 2; shift; else gpus=${gpus:-all}; fi ;;
    --num-gpus) gpus=$(count_of "$@") || exit 2; shift ;;
    --cpu) wants_cpu=1 ;;
    --num-processes) total=$(count_of "$@") || exit 2; shift ;;
    --skip-tokenizer) put experiment.train_tokenizer=false ;;
    --skip-basemodel | --skip-predictor) put experiment.train_basemodel=false ;;
    --skip-existing) put experiment.skip_existing=true ;;
    --fast-mode) plan_flags+=(--fast-mode) ;;
    --submit) submit=1 ;;
    --dist-backend) put "distributed.ddp_backend=$(value_of "$@")"; shift ;;
    --num-machines) put "distributed.num_machines=$(count_of "$@")"; shift ;;
    --machine-rank) put "distributed.machine_rank=$(value_of "$@")"; shift ;;
    --main-process-ip) put "distributed.main_process_ip=\"$(value_of "$@")\""; shift ;;
    --main-process-port) put "distributed.main_process_port=$(count_of "$@")"; shift ;;
    --dry-run) dry_run=1; plan_flags+=(--dry-run) ;;
    *) kit_fail "unknown argument $1; see bash train_kaggle.sh -h" ;;
  esac
  shift
done
[ -z "$gpus" ] || [ $wants_cpu = 0 ] || kit_fail "--cpu and --multi-gpu (or --num-gpus) exclude each other; choose one"
[ -z "$gpus" ] || [ -z "$total" ] ||
  kit_fail "--num-processes (over all machines) and --multi-gpu or --num-gpus (of each) exclude each other; choose one"
[ $wants_cpu = 0 ] || put device.use_cuda=false
[ -z "$total" ] || processes "$total"
if [ -n "$gpus" ]; then
  put device.use_cuda=true
  plan_flags+=(--gpus "$gpus")
fi
case $config in
  /*) ;;
  *) if [ -f "$start_dir/$config" ]; then config=$start_dir/$config; else config=$root/$config; fi ;;
esac

# ---- environment and plan ---------------------------------------------------------------------------------------------
cd "$root" # relative paths of a configuration start here
kit_environment runtime
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
KIT_LAUNCHED=$(date +%s) # training.time_limit counts from here, over both stages
export KIT_LAUNCHED

plan=$("$PY" kaggle/plan_launch.py --config "$config" ${overrides[@]+"${overrides[@]}"} ${plan_flags[@]+"${plan_flags[@]}"})
stages=()
summaries=()
costs=()
launch=("$PY" -m accelerate.commands.launch)
while IFS='=' read -r key value; do
  case $key in
    run_dir) run_dir=$value ;;
    config) resolved=$value ;;
    log) log=$value ;;
    gpu) gpu=$value ;;
    scored) scored=$value ;;
    backtest) backtest=$value ;;
    submission) submitter=$value ;;
    stage) stages+=("$value") ;;
    summary) summaries+=("$value") ;;
    accelerate) launch+=("$value") ;;
    plan) costs+=("$value") ;;
  esac
done <<<"$plan"
if [ "$submit$submitter" = 1elsewhere ]; then
  submit=0
  echo "--submit: machine 0 writes and scores the submission; this machine only trains."
fi
if [ "$gpu" = 0 ]; then
  export ACCELERATE_USE_CPU=true                   # without it, several processes would each train alone
  export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-10000}" # threads that wait for ever by spinning starve a busy machine
fi
submission="submissions/$(basename "$run_dir")-$(basename "$log" .log | sed 's/^train_//').csv"

# ---- running: one step at a time, in a process group of its own, so that a signal reaches what runs and leaves nothing behind --
child=
signal=
started=$SECONDS

forward() { # SIGNAL: the first one asks the trainers to save; the next one ends everything at once
  local again=$signal
  signal=$1
  [ -n "$child" ] || stop_here
  [ -n "$again" ] || echo "SIG$1: saving a resumable state (send it again to stop at once)"
  # The trainers are the children of accelerate's launcher; were it signalled too, it would not wait for their save.
  # They have sessions of their own, so a signal to the process group would not reach them.
  "$PY" - "$child" "${again:+KILL}" "SIG$1" <<'PYTHON' || true
import os, signal, sys
import psutil
launcher, kill, name = psutil.Process(int(sys.argv[1])), sys.argv[2], sys.argv[3]
targets = [*launcher.children(recursive=True), launcher] if kill else launcher.children() or [launcher]
for process in targets:
    os.kill(process.pid, signal.SIGKILL if kill else getattr(signal, name))
PYTHON
}

hang_up() { # the terminal is gone: a shell and the system may both say so, and neither is in a hurry
  [ -z "$signal" ] || return 0
  echo "The terminal is gone (SIGHUP)."
  forward TERM
}

run() { # COMMAND...: wait for it through signals; its exit status
  local status=0
  if [ $dry_run = 1 ]; then
    printf '  '
    printf '%q ' "$@"
    printf '\n'
    return
  fi
  set -m
  "$@" &
  child=$!
  set +m
  wait "$child" || status=$?
  while kill -0 "$child" 2>/dev/null; do
    status=0
    wait "$child" || status=$?
  done
  kill -KILL -- "-$child" 2>/dev/null || true # a step that ended leaves no process behind
  child=
  [ -z "$signal" ] || stop_here
  return "$status"
}

step() { # NAME COMMAND...: a user's error (status 2) has said its line already
  local status=0
  run "${@:2}" || status=$?
  [ $status -ne 2 ] || exit 2
  [ $status -eq 0 ] || kit_fail "$1 failed; its output is in $log"
}

stop_here() {
  echo "${red}Interrupted.$plain What was saved lies in $run_dir; go on with the same command and --skip-existing."
  if [ "${signal:-TERM}" = INT ]; then exit 130; fi
  exit 143
}

title() { # TEXT: what comes next
  [ $dry_run = 1 ] || printf '\n%s%s%s\n' "$bold" "$1" "$plain"
}

launched() { # NAME SCRIPT ARGUMENTS...: a step in all processes of the run
  local failure=$log.failure # a process's error, see kronos/cli.py
  KIT_FAILURE=$failure step "$1" "${launch[@]}" "${@:2}"
  if [ -e "$failure" ]; then
    rm -f "$failure"
    exit 2
  fi
}

train() { # STAGE SUMMARY
  title "Training: $1"
  launched "the $1 stage" kaggle/train_stage.py --config "$resolved" --stage "$1"
  [ $dry_run = 0 ] || return 0
  case $("$PY" -c 'import json, sys; s = json.load(open(sys.argv[1])); print(s["status"], s.get("reason"))' "$2") in
    complete*) ;;
    *"time limit") out_of_time "$1" ;;
    *) stop_here ;;
  esac
}

out_of_time() { # STAGE: exit status 0, because Kaggle keeps the files only of a run that ends well
  echo
  echo "${red}Time limit:$plain the $1 stage is saved in $run_dir, not complete; go on with the same command and --skip-existing."
  [ $submit = 0 ] || echo "Not submitted: no submission is written from networks that are not fully trained."
  exit 0
}

place() { # NAME PATH...: a line with those of the paths that are there, as the user's folder sees them
  local name=$1 path found=()
  shift
  for path in "$@"; do
    [ ! -e "$path" ] || found+=("$(seen "$path")")
  done
  [ ${#found[@]} = 0 ] || printf '  %-13s%s\n' "$name:" "${found[*]}"
}

seen() { # PATH: it, from the folder in which the user stands
  if [ "$start_dir" = "$root" ] || [[ $1 == /* ]]; then printf '%s' "$1"; else printf '%s' "$root/$1"; fi
}

command_line() { # WORD...: ready to be pasted
  local words
  printf -v words '%q ' "$@"
  printf '  %s\n' "${words% }"
}

report() { # where everything is, and what to type next
  local folders=("${summaries[@]%/summary.json}")
  printf '\n%sDone in %d s%s\n' "$bold$green" $((SECONDS - started)) "$plain"
  place Models "${folders[@]/%//best_model}"
  place Curves "${folders[@]/%//loss.png}"
  [ "$backtest" = 0 ] || place Backtest "$run_dir/backtest/report.html"
  place Log "$log"
  [ $submit = 0 ] || place Submission "$submission"
  printf '%sNext%s\n' "$bold" "$plain"
  if [ $submit = 0 ]; then
    command_line python "$(seen scripts/make_submission.py)" --config "$(seen "$resolved")"
  elif [ "$scored" = 0 ]; then
    command_line python "$(seen scripts/submit.py)" --config "$(seen "$resolved")" --file "$(seen "$submission")" --message "what is new"
  else
    command_line python "$(seen scripts/compare_runs.py)" --config "$(seen "$resolved")"
  fi
}

flush_log() { # keeps the exit status of the script
  exec >&- 2>&-
  wait "$tee_pid" || true
}

if [ $dry_run = 1 ]; then
  echo "Would run, from $root:"
else
  [ ! -t 1 ] || export KIT_PROGRESS="${KIT_PROGRESS:-1}" # the log takes the terminal away from the steps; progress bars are still wanted
  exec > >(trap '' INT TERM HUP; tee >(trap '' INT TERM HUP; sed -u 's/.*\r//; s/\x1b\[[0-9;]*m//g' >>"$log")) 2>&1
  tee_pid=$!
  trap flush_log EXIT
fi
trap 'forward INT' INT
trap 'forward TERM' TERM
trap hang_up HUP

# ---- the recipe ---------------------------------------------------------------------------------------------------------
title "Preparing the data"
step "preparing the data" "$PY" kaggle/prepare_data.py --config "$resolved"
for index in "${!stages[@]}"; do
  train "${stages[$index]}" "${summaries[$index]}"
done
if [ "$backtest" = 1 ]; then
  title "Backtest"
  run "$PY" scripts/run_backtest.py --config "$resolved" --save || echo "No backtest, for the reason above; the models are complete."
fi
if [ $submit = 1 ]; then
  title "Submission"
  forecast=(scripts/make_submission.py --config "$resolved" --output "$submission")
  # Of several machines only the first one forecasts, in one process: the others have ended, or wait for nothing.
  if [ "$submitter" = shared ]; then launched "the submission" "${forecast[@]}"; else step "the submission" "$PY" "${forecast[@]}"; fi
  [ "$scored" = 0 ] || step "the score" "$PY" scripts/score_submission.py --config "$resolved" --file "$submission"
fi

if [ $dry_run = 1 ]; then
  printf '%s\n' "${costs[@]}"
  echo "Nothing was run or written."
else
  report
fi
