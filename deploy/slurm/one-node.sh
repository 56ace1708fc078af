#!/usr/bin/env bash
# A real SLURM of one node on loopback, to try things on: no systemd, no terminal, no other machine.
#
#   one-node.sh start FOLDER [CPUS] [MEGABYTES]    prints the SLURM_CONF to export
#   one-node.sh stop FOLDER
#
# Debian: apt-get install slurmctld slurmd slurm-client munge
set -euo pipefail

action=${1:?start or stop}
folder=$(realpath -m "${2:?a folder for its state}")
cpus=${3:-4}
memory=${4:-$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)}
user=$(id -un)
host=$(hostname -s)
export SLURM_CONF=$folder/slurm.conf
daemons=(slurmd.pid slurmctld.pid munge/pid)

# whether the process of a pid file runs; one that ended and was not waited for by its parent does not
runs() {
  [ -s "$folder/$1" ] && grep -qsv '^State:[[:space:]]*Z' <(grep -s '^State:' "/proc/$(cat "$folder/$1")/status")
}

configure() {
  cat > "$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
SlurmctldPort=${SLURMCTLD_PORT:-16817}
SlurmdPort=${SLURMD_PORT:-16818}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/log/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=200000,bf_interval=2,requeue_delay=1
ReturnToService=2
MinJobAge=300
KillWait=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE DefMemPerCPU=512 State=UP
CONF
}

start() {
  mkdir -p "$folder"/{state,spool,log,munge}
  # munge wants a key that nobody else reads, and a folder that it trusts
  chmod 0700 "$folder/munge"
  [ -s "$folder/munge/key" ] || (umask 077; dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 status=none)
  chmod 0755 "$folder/munge"
  munged --force --num-threads=2 --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
  configure
  slurmctld -c -f "$SLURM_CONF"
  slurmd -c -f "$SLURM_CONF"
  for _ in $(seq 150); do
    if [ "$(sinfo -h -o %T 2> /dev/null)" = idle ]; then
      echo "export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.2
  done
  echo "SLURM did not come up" >&2
  tail -n 20 "$folder"/log/*.log >&2
  exit 1
}

stop() {
  scancel -u "$user" 2> /dev/null || true
  sleep 1
  for daemon in "${daemons[@]}"; do
    if runs "$daemon"; then kill "$(cat "$folder/$daemon")" || true; fi
  done
  for _ in $(seq 50); do
    left=0
    for daemon in "${daemons[@]}"; do if runs "$daemon"; then left=1; fi; done
    [ $left = 0 ] && return
    sleep 0.2
  done
  echo "SLURM did not stop" >&2
  exit 1
}

case $action in
  start | stop) "$action" ;;
  *) echo "start or stop, not $action" >&2; exit 2 ;;
esac
