#!/bin/bash
# A slice of Cloud TPUs with several hosts: the same command on all of them. Cloud TPU tells each process its place.
#   examples/cluster/tpu_pod.sh NAME ZONE configs/minilm_movies.py BUCKET_MOUNTED_AT
set -eu
name=$1 zone=$2 config=$3 folder=$4

gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command "
  cd tlx && .venv/bin/tlx run $config --mesh data=-1,fsdp=4 --out $folder/$(basename "$config" .py) --resume
"
