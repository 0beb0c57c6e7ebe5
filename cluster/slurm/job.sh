# shellcheck shell=bash
# What the batch scripts beside this file share: runs halfquad as the one step of a Slurm job, has it stop in time and
# Slurm start the job again, until the output is complete. cluster/README.md says how it is used and what it prints.
#
# Sourced, then: halfquad_job quantize MODEL OUT [OPTIONS...]      (or convert FROM OUT ...)
# It does not return: the exit code is halfquad's own, or that of a job that goes on later.
#
# Settings, all from the environment:
#   HALFQUAD                 the program (default: of the checkout or prefix this file is in, else the one on PATH)
#   HALFQUAD_LAUNCHER        srun (default) or mpirun
#   HALFQUAD_MPI             of srun --mpi (default: pmix)
#   HALFQUAD_LAUNCH_OPTIONS  more options of srun or mpirun, divided by blanks
#   HALFQUAD_REQUEUE         scontrol (default), exit (sites whose RequeueExit does it), or no
#   HALFQUAD_REQUEUE_EXIT    exit code of a job that is to go on (default: 75)
#   HALFQUAD_MAX_RESTARTS    starts after which a job is left to a person (default: 100)
#   HALFQUAD_TERM_WAIT       seconds in which Slurm's own SIGTERM reaches the ranks, if it is sent to them at all; then
#                            the script's is passed on (default: 10)

HQ_INTERRUPTED=75         # halfquad's exit code when the same command can go on
HQ_USAGE=2
HQ_CRASH_RESTARTS=3       # of a job that has finished nothing new in its last run
HQ_TASK_WAIT_SECONDS=60   # that the other ranks have for an end of their own when one has ended
HQ_LOCK_ATTEMPTS=10       # of a restart that finds OUT in use, HQ_LOCK_SECONDS apart
HQ_LOCK_SECONDS=15

hq_say() { printf '%(%F %T)T halfquad job %s: %s\n' -1 "$hq_id" "$*"; }

hq_die() {
  hq_say "error: $*" >&2
  exit "$HQ_USAGE"
}

# The job as scontrol wants it: the first number of an array would mean all of its tasks.
hq_own_id() {
  if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
    printf '%s_%s' "$SLURM_ARRAY_JOB_ID" "$SLURM_ARRAY_TASK_ID"
  else
    printf '%s' "${SLURM_JOB_ID:-}"
  fi
}

hq_find_program() {
  local here
  here="$(dirname "${BASH_SOURCE[0]}")"
  hq_program="${HALFQUAD:-}"
  if [[ -z $hq_program ]]; then
    # In a checkout, below a prefix, or on the path.
    for hq_program in "$here/../../build/release/launcher/halfquad" "$here/../../../bin/halfquad" halfquad; do
      [[ ! -x $hq_program ]] || break
    done
  fi
  command -v "$hq_program" >/dev/null ||
    hq_die "$hq_program is not a program on $(hostname): set HALFQUAD to its path, which all nodes must see"
}

hq_setting() {  # NAME VALUE ALLOWED...
  local name="$1" value="$2" allowed
  shift 2
  for allowed; do [[ $value != "$allowed" ]] || return 0; done
  hq_die "$name is '$value'; choose one of: $*"
}

hq_check() {
  [[ -n $hq_id ]] || hq_die 'this is not inside a Slurm job: submit the script with sbatch, or run it inside salloc'
  [[ $# -ge 3 && $1 != -* && $2 != -* && $3 != -* ]] ||
    hq_die "the arguments are halfquad's, in this order: quantize MODEL OUT [OPTIONS...], or convert FROM OUT [OPTIONS...]"
  hq_setting HALFQUAD_LAUNCHER "$hq_launcher" srun mpirun
  hq_setting HALFQUAD_REQUEUE "$hq_requeue" scontrol exit no
}

# Bytes that the ranks have written about finished work; they only grow.
hq_journaled() {
  local files=("$hq_out".partial/.halfquad/journal-*)
  [[ -e ${files[0]} ]] || { printf 0 && return; }
  cat "${files[@]}" 2>/dev/null | wc -c
}

# RUNNING as long as it is up to this script what becomes of the job; anything else once Slurm has decided.
hq_state() { scontrol show job "$hq_id" 2>/dev/null | sed -n 's/^ *JobState=\([A-Z_]*\).*/\1/p' | head -n 1; }

hq_launch() {
  local more=()
  read -ra more <<<"${HALFQUAD_LAUNCH_OPTIONS:-}"
  local command=(mpirun)
  if [[ $hq_launcher == mpirun ]]; then
    # For Open MPI: a node that loses its power is noticed within 10 seconds instead of 7 minutes, and a rank may use all
    # cores that the job has on its node, which the ranks there divide.
    export OMPI_MCA_oob_tcp_keepalive_time="${OMPI_MCA_oob_tcp_keepalive_time:-3}"
    export OMPI_MCA_oob_tcp_keepalive_intvl="${OMPI_MCA_oob_tcp_keepalive_intvl:-2}"
    export OMPI_MCA_oob_tcp_keepalive_probes="${OMPI_MCA_oob_tcp_keepalive_probes:-2}"
    export OMPI_MCA_hwloc_base_binding_policy="${OMPI_MCA_hwloc_base_binding_policy:-none}"
  else
    # The ranks end by themselves when one does, with the exit code that says why; killing them would hide it. srun does
    # not take --cpus-per-task over from the job. Every rank is bound to cores and sees all GPUs that the job has on its
    # node; the ranks take those near their cores. (--gpu-bind=none would hide the GPUs.)
    export SLURM_EXPORT_ENV=ALL  # where jobs are submitted with --export=NONE, srun would start the ranks without PATH
    command=(srun "--mpi=${HALFQUAD_MPI:-pmix}" --kill-on-bad-exit=0 "--wait=$HQ_TASK_WAIT_SECONDS" --cpu-bind=cores)
    [[ -z ${SLURM_CPUS_PER_TASK:-} ]] || command+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
  fi
  command+=("${more[@]}" "$hq_program" "$@")
  hq_say "runs: ${command[*]}"
  "${command[@]}" &
  hq_pid=$!
}

# srun and mpirun pass SIGUSR1 on. Once only: a second signal would end the ranks at once.
hq_on_usr1() {
  [[ -z $hq_asked ]] || return 0
  hq_say 'SIGUSR1: the ranks stop with what they have finished'
  hq_asked=yes
  [[ -z $hq_timer ]] || kill "$hq_timer" 2>/dev/null
  kill -USR1 "$hq_pid" 2>/dev/null
}

# At a scancel, a requeue and the time limit Slurm signals the ranks, too. A SIGTERM to this script alone is passed on.
hq_on_term() {
  hq_say 'SIGTERM'
  [[ -z $hq_asked && -z $hq_timer ]] || return 0
  (sleep "${HALFQUAD_TERM_WAIT:-10}" && kill -USR1 "$hq_pid" 2>/dev/null) &
  hq_timer=$!
}

hq_wait() {
  local status
  while :; do
    wait "$hq_pid"
    status=$?
    kill -0 "$hq_pid" 2>/dev/null || break  # a signal that a trap took ends wait, too
  done
  return "$status"
}

# Runs the ranks to their end. A restart may come before the file system has given up the lock on OUT of ranks that ran on
# a lost node; then, unlike at a first start, it is halfquad's error of usage that passes.
hq_run() {
  local status attempt
  for ((attempt = 1; ; attempt++)); do
    hq_launch "$@"
    hq_wait
    status=$?
    if ((status != HQ_USAGE || hq_restart == 0 || attempt >= HQ_LOCK_ATTEMPTS)); then return "$status"; fi
    hq_say "could not go on; tries again in $HQ_LOCK_SECONDS seconds"
    sleep "$HQ_LOCK_SECONDS" &
    hq_pid=$!
    hq_wait
    [[ -z $hq_asked$hq_timer ]] || return "$HQ_INTERRUPTED"
  done
}

# Has Slurm start this job again, with the same arguments.
hq_go_on_later() {
  local code="${HALFQUAD_REQUEUE_EXIT:-$HQ_INTERRUPTED}" attempt
  if ((hq_restart >= ${HALFQUAD_MAX_RESTARTS:-100})); then
    hq_say "was started $((hq_restart + 1)) times (HALFQUAD_MAX_RESTARTS); submit the same command again to go on"
    exit "$HQ_INTERRUPTED"
  fi
  case $hq_requeue in
    exit)
      hq_say "ends with exit code $code, at which Slurm requeues it where RequeueExit holds $code"
      exit "$code"
      ;;
    no)
      hq_say 'is not requeued (HALFQUAD_REQUEUE=no); submit the same command again to go on'
      exit "$HQ_INTERRUPTED"
      ;;
  esac
  for attempt in 1 2 3; do  # the controller may be busy or about to come back
    if scontrol requeue "$hq_id"; then
      hq_say 'is requeued and goes on at its next start'
      exit "$code"
    fi
    ((attempt == 3)) || sleep 5
  done
  hq_say 'could not be requeued, for the reason above; submit the same command again to go on'
  exit "$HQ_INTERRUPTED"
}

hq_finish() {
  local status="$1" state done_bytes
  if ((status == 0)); then
    hq_say "is done: $hq_out is complete"
    exit 0
  fi
  [[ -z $hq_timer ]] || kill "$hq_timer" 2>/dev/null
  state="$(hq_state)"
  done_bytes=$(($(hq_journaled) - hq_journaled_before))
  hq_say "$hq_launcher ended with exit code $status; the job is ${state:-in an unknown state}"
  if [[ -n $state && $state != RUNNING && $state != SIGNALING ]]; then
    hq_say 'is stopped by Slurm, which starts it again if it was preempted or requeued or lost a node; when it was' \
      'cancelled or out of time, submit the same command again to go on'
    exit "$status"
  fi
  if ((status == HQ_INTERRUPTED)) || [[ -n $hq_asked$hq_timer ]]; then hq_go_on_later; fi
  if ((status > 1 && status < 128)); then
    hq_say "is not started again: that is an error which would come again; the exit codes are in cluster/README.md"
    exit "$status"
  fi
  # No error of halfquad's: the launcher failed, ranks were killed, or a node was lost.
  if ((done_bytes > 0 || (status >= 128 && hq_restart < HQ_CRASH_RESTARTS))); then
    hq_say 'lost ranks that had no error of their own; it goes on from what they have finished'
    hq_go_on_later
  fi
  hq_say 'is not started again: it could not be launched, or its ranks died before they had finished anything; see above'
  exit "$status"
}

halfquad_job() {
  hq_id="$(hq_own_id)"
  hq_launcher="${HALFQUAD_LAUNCHER:-srun}"
  hq_requeue="${HALFQUAD_REQUEUE:-scontrol}"
  hq_restart="${SLURM_RESTART_COUNT:-0}"
  hq_pid='' hq_asked='' hq_timer=''
  hq_check "$@"
  hq_out="$3"
  hq_find_program
  hq_say "start $((hq_restart + 1)) on ${SLURM_JOB_NODELIST:-$(hostname)}"

  local argument arguments=() overwrite=no
  for argument; do
    [[ $argument != --overwrite ]] || overwrite=yes
    # Only the first start discards what an earlier job left; the others would discard what this one has finished.
    [[ $argument == --fresh && $hq_restart -gt 0 ]] || arguments+=("$argument")
  done
  if ((hq_restart > 0)) && [[ $overwrite == no && -e $hq_out && ! -e $hq_out.partial ]]; then
    hq_say "is done: $hq_out was completed by the start before"
    exit 0
  fi
  hq_journaled_before="$(hq_journaled)"
  trap hq_on_usr1 USR1
  trap hq_on_term TERM
  hq_run "${arguments[@]}"
  hq_finish $?
}
