#!/bin/sh
# Builds the Dockerfile where no registry of images is reached, and tries what docs/container.md says of it.
#
#   sh tools/container.sh ROOT cpu|cuda FOLDER
#
# ROOT is the root of a Debian with Python, in the place of python:3.12-slim (how it is made: docs/container.md). It
# needs root's rights, and Debian's buildah, podman, runc and catatonit. Images and volumes lie in FOLDER, apart from
# the machine's own. Each container has a 127.0.0.1 of its own and no other network. What is printed was seen; the first
# thing that is otherwise ends it.
set -eu
cd "$(dirname "$0")/.."
root=$1 device=$2 folder=$3
base=docker.io/library/python:3.12-slim
mkdir -p "$folder"
: >"$folder/podman.log"
export CONTAINERS_STORAGE_CONF="$folder/storage.conf" LORA_LENS_PASSWORD="open sesame"
cat >"$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "overlay"
graphroot = "$folder/images"
runroot = "$folder/state"
END

# What it remarks on a machine without systemd is of no use here.
podman() { command podman --runtime runc --cgroup-manager cgroupfs "$@" 2>>"$folder/podman.log"; }
# Limits that any user may set.
run() { podman run --network none --ulimit nofile=4096:4096 --ulimit nproc=4096:4096 "$@"; }
# As compose.yaml has it.
start() {
    run --detach --name lens --init --cap-drop all --security-opt no-new-privileges --shm-size 2g \
        --volume workspace:/workspace --env LORA_LENS_PASSWORD "$@" lora-lens >/dev/null
    wait_for 300 podman healthcheck run lens
}
inside() { podman exec lens "$@"; }
listed() { inside python -m training list --json | grep -q "$1"; }
build() {
    buildah bud --isolation chroot --format docker --pull-never --layers --build-arg "DEVICE=$1" --tag lora-lens . \
        >"$folder/build.log" 2>&1
}
fail() { echo "NOT SO: $*" >&2; tail -n 20 "$folder/podman.log" >&2; exit 1; }
wait_for() { # SECONDS COMMAND…
    ends=$(($(date +%s) + $1)); shift
    until "$@" >/dev/null; do [ "$(date +%s)" -lt "$ends" ] || fail "$*"; sleep 1; done
}
stop() {
    began=$(date +%s)
    podman stop --time 120 lens >/dev/null
    echo "stopped after $(($(date +%s) - began)) s, exit code $(podman inspect --format '{{.State.ExitCode}}' lens)"
    podman rm lens >/dev/null
}

if ! buildah inspect "$base" >/dev/null 2>&1; then
    made=$(buildah from scratch)
    buildah add --quiet "$made" "$root" / >/dev/null
    buildah commit --quiet "$made" "$base" >/dev/null
    buildah rm "$made" >/dev/null
fi
build gpu && fail "DEVICE=gpu is built"
echo "not built: $(grep -m 1 '^DEVICE is' "$folder/build.log")"
build "$device" || { tail -n 5 "$folder/build.log"; fail "DEVICE=$device is not built"; }
echo "built: $(($(podman image inspect --format '{{.Size}}' lora-lens) / 1000000)) MB, as $(run --rm lora-lens id)"
echo "C compiler: $(run --rm lora-lens sh -c 'command -v cc || echo none')"

run --rm lora-lens && fail "it starts without a password"
grep -m 1 'Set LORA_LENS_PASSWORD' "$folder/podman.log"
start
echo "healthy with a password; process 1: $(inside cat /proc/1/comm)"
inside sh -c 'touch /workspace/file ~/file'
inside touch /app/file && fail "the page can write into its code"
inside python -m training start --name demo --dataset shapes --max_steps 60 --save_steps 20 --held_out 0
wait_for 600 listed '"step": [1-9][0-9]'
stop
run --rm --volume workspace:/workspace lora-lens python -m training list
start --env PORT=7999
wait_for 900 listed '"state": "finished"'
inside python -m training list
stop
