#!/usr/bin/env bash
# The driver takes one task and the workers of allocation.toml the others. Give `sbatch` the same command again, or let
# it be requeued, and the run goes on.
#
#   sbatch allocation.sh mosaic.fits --recipe complex-sky --out sky.zarr
#
#SBATCH --job-name=tiledsky
#SBATCH --ntasks=3
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=1500M
#SBATCH --time=00:30:00
#SBATCH --requeue
#SBATCH --open-mode=append
# setup: module load python; source ~/tiledsky/bin/activate

exec python -m tiledsky run "$@" --cluster "${TILEDSKY_CLUSTER:-allocation.toml}"
