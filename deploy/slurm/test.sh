#!/usr/bin/env bash
# Install and start a SLURM of one node, run the tests of tests/slurm on it, and stop it again.
# Where its packages cannot be had, say so and end well, unless TILEDSKY_NEED_SLURM is set.
#
#   test.sh PYTHON [pytest options]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=$1
shift

lacking() {
  echo "=====================================================================" >&2
  echo "SLURM WAS NOT TESTED: $1" >&2
  echo "=====================================================================" >&2
  if [ -n "${TILEDSKY_NEED_SLURM:-}" ]; then exit 1; fi
  exit 0
}

if ! command -v slurmctld slurmd sbatch munged > /dev/null; then
  if ! command -v apt-get > /dev/null; then lacking "no slurmctld, slurmd, munged, and no apt-get to install them"; fi
  if [ "$(id -u)" != 0 ]; then lacking "apt-get install slurmctld slurmd slurm-client munge needs root"; fi
  export DEBIAN_FRONTEND=noninteractive
  wait=(-q -o DPkg::Lock::Timeout=300)
  apt-get "${wait[@]}" update > /dev/null || lacking "apt-get update failed"
  apt-get "${wait[@]}" install -y slurmctld slurmd slurm-client munge > /dev/null || lacking "apt-get install failed"
fi

folder=$(mktemp -d)
# ports that are free now, so that two of them do not meet
read -r SLURMCTLD_PORT SLURMD_PORT < <("$python" - <<'PORTS'
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))
PORTS
)
export SLURMCTLD_PORT SLURMD_PORT
trap '"$here/one-node.sh" stop "$folder" || true; rm -rf "$folder"' EXIT
"$here/one-node.sh" start "$folder" 4 > "$folder/export" || lacking "SLURM does not start here"
# shellcheck disable=SC1091
source "$folder/export"
cd "$here/../.."
"$python" -m pytest -q -m slurm tests/slurm "$@"
