#!/usr/bin/env bash
# test_image.sh [--bin DIR | --full] [--base IMAGE] [--tag TAG] [--keep]
#
# Builds the image and uses it from outside: a container with a read-only root, no capabilities, one CPU and an
# unprivileged user quantizes, loads and answers over its published port; then it is stopped in the middle of an answer.
#   --bin DIR   quantd and quantctl of a Debian 12 build (default: build/release/bin); --full compiles in the image.
#   --base      Debian 12 image to build on; default: debian:bookworm-slim, or base_image.sh where no registry answers.
#   --keep      leave image and containers' volume behind.
# Exit code 77: there is no Docker engine to test with.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=build/release/bin full=0 base="" tag=quantd-test keep=0
while [ $# -gt 0 ]; do
  case "$1" in
    --bin) bin=$2; shift ;;
    --full) full=1 ;;
    --base) base=$2; shift ;;
    --tag) tag=$2; shift ;;
    --keep) keep=1 ;;
    *) echo "test_image.sh: unknown argument $1" >&2; exit 2 ;;
  esac
  shift
done

name=quantd-test-$$
work=$(mktemp -d)
token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
ctl=("$bin/quantctl")
started=$SECONDS

say() { echo "[$((SECONDS - started)) s] $*"; }

fail() {
  echo "FAILED: $*" >&2
  for container in "$name" "$name-token" "$name-socket"; do
    docker logs --tail 20 "$container" 2>&1 | sed "s/^/$container: /" >&2 || true
  done
  exit 1
}

cleanup() {
  docker rm -f "$name" "$name-files" "$name-token" "$name-socket" "$name-refused" >/dev/null 2>&1 || true
  [ -z "${compose_files:-}" ] || compose down --volumes >/dev/null 2>&1 || true
  if [ $keep = 0 ]; then
    docker volume rm -f "$name" >/dev/null 2>&1 || true
    docker image rm -f "$tag" >/dev/null 2>&1 || true
  fi
  rm -rf "$work"
}

require_engine() {
  if ! command -v docker >/dev/null || ! docker info >/dev/null 2>&1; then
    echo "SKIPPED: no Docker engine answers here"
    exit 77
  fi
}

find_base() {
  [ -z "$base" ] || return 0
  base=quantd-base:bookworm
  if docker image inspect "$base" >/dev/null 2>&1; then return 0; fi
  if timeout 120 docker pull -q debian:bookworm-slim >/dev/null 2>&1; then
    base=debian:bookworm-slim
  else
    docker/base_image.sh "$base"
  fi
}

build_image() {
  local arguments=(--network host --build-arg "BASE=$base" --build-arg "CREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ)")
  local revision
  if revision=$(git rev-parse HEAD 2>/dev/null); then arguments+=(--build-arg "REVISION=$revision"); fi
  for variable in http_proxy https_proxy no_proxy; do
    [ -z "${!variable:-}" ] || arguments+=(--build-arg "$variable")
  done
  if [ $full = 1 ]; then
    docker build "${arguments[@]}" -f docker/Dockerfile --target runtime -t "$tag" . >"$work/build.log" 2>&1
  else
    mkdir -p "$work/context/build/release/bin" "$work/context/scripts"
    cp LICENSE "$work/context/"
    cp scripts/install_dependencies.sh "$work/context/scripts/"
    strip -o "$work/context/build/release/bin/quantd" "$bin/quantd"
    strip -o "$work/context/build/release/bin/quantctl" "$bin/quantctl"
    docker build "${arguments[@]}" -f docker/Dockerfile --target runtime-prebuilt -t "$tag" "$work/context" \
      >"$work/build.log" 2>&1
  fi || { tail -n 40 "$work/build.log" >&2; fail "docker build"; }
  say "image $tag: $(docker image inspect --format '{{.Size}}' "$tag" | numfmt --to=si)B on $base"
}

# The image itself: every library there, nobody privileged, labels, no listening without a decision.
check_image() {
  local missing
  missing=$(docker run --rm --network none --entrypoint ldd "$tag" /usr/local/bin/quantd /usr/local/bin/quantctl |
    grep "not found" || true)
  [ -z "$missing" ] || fail "libraries missing in the image: $missing"
  [ "$(docker image inspect --format '{{.Config.User}}' "$tag")" = 10001:10001 ] || fail "user of the image"
  [ "$(docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.title"}}' "$tag")" = quantd ] ||
    fail "OCI labels"
  if docker run --name "$name-refused" "$tag" >"$work/refused" 2>&1; then
    fail "the default command serves without a token file"
  fi
  if docker run --rm "$tag" --listen 0.0.0.0:8001 >"$work/refused" 2>&1; then
    fail "it listens for everybody without being told to"
  fi
  grep -q -- --insecure-listen-anywhere "$work/refused" || fail "no remedy named: $(cat "$work/refused")"
}

hardened=(--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges --pids-limit 256)

# The volume gets its files as any user of Docker would give them: through a container that never runs.
fill_volume() {
  local models=${QUANTD_MODELS:-.cache/models}
  [ -e "$models/smollm2-135m.gguf" ] || python3 scripts/fetch_models.py "$models"
  docker volume create "$name" >/dev/null
  docker create --name "$name-files" -v "$name:/models" "$tag" >/dev/null
  docker cp -L "$models/smollm2-135m.gguf" "$name-files:/models/" >/dev/null
  docker rm "$name-files" >/dev/null
}

# wait_ready CONTAINER COMMAND...: until the command succeeds or the container has ended.
wait_ready() {
  local container=$1
  shift
  for _ in $(seq 300); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    [ "$(docker inspect --format '{{.State.Running}}' "$container")" = true ] || break
    sleep 0.2
  done
  fail "$container does not get ready"
}

published() { docker port "$1" 8001/tcp | head -n 1; }

start_server() {
  docker run -d --name "$name" "${hardened[@]}" --cpus 1 --memory 2g -p 127.0.0.1::8001 -v "$name:/models" \
    --health-interval 2s "$tag" --insecure-listen-anywhere >/dev/null
  ctl=("$bin/quantctl" --server "$(published "$name")")
  wait_ready "$name" "${ctl[@]}" status
  say "serving on $(published "$name")"
}

check_confinement() {
  local status
  status=$(docker exec "$name" cat /proc/1/status)
  for line in $'Uid:\t10001\t10001' $'CapEff:\t0000000000000000' $'NoNewPrivs:\t1' $'Seccomp:\t2'; do
    grep -q "^$line" <<<"$status" || fail "process 1 lacks: $line"
  done
  if docker exec "$name" touch /usr/local/bin/x 2>/dev/null; then fail "the root file system is writable"; fi
  local threads memory
  threads=$(json threads status)
  memory=$(json memoryLimitBytes status)
  [ "$threads" = 1 ] || fail "$threads compute threads under --cpus 1"
  [ "$memory" -le $((2 << 30)) ] || fail "memory limit $memory under --memory 2g"
}

# json FIELD ARGUMENTS...: a top-level field of what quantctl prints.
json() {
  local field=$1
  shift
  "${ctl[@]}" --output json "$@" | python3 -c '
import json, sys
document = json.load(sys.stdin)
name = sys.argv[1]
snake = "".join("_" + c.lower() if c.isupper() else c for c in name)
print(document.get(name, document.get(snake, "")))' "$field"
}

use_server() {
  "${ctl[@]}" methods >"$work/methods"
  grep -q bitsandbytes "$work/methods" || fail "methods: $(cat "$work/methods")"
  "${ctl[@]}" quantize smollm2-135m.gguf --method bitsandbytes --bits 4 --set bnb_4bit_quant_type=nf4 \
    --output-name smollm2-nf4 >"$work/quantize" 2>&1 || fail "quantize: $(cat "$work/quantize")"
  say "quantized to NF4"
  "${ctl[@]}" load smollm2-nf4 >"$work/load" 2>&1 || fail "load: $(cat "$work/load")"
  grep -qi bitsandbytes "$work/load" || fail "load does not name the method: $(cat "$work/load")"
  say "loaded: $(cat "$work/load")"
  local answer
  answer=$("${ctl[@]}" generate smollm2-nf4 --max-tokens 24 -q "What is the capital of France?")
  grep -q Paris <<<"$answer" || fail "answer: $answer"
  say "answered: $answer"
}

check_health() {
  for _ in $(seq 100); do
    [ "$(docker inspect --format '{{.State.Health.Status}}' "$name")" != healthy ] || return 0
    sleep 0.3
  done
  fail "health: $(docker inspect --format '{{json .State.Health}}' "$name")"
}

# SIGTERM in the middle of an answer: the answer is finished, then the process ends with 0.
stop_while_answering() {
  "${ctl[@]}" generate smollm2-nf4 --max-tokens 96 --ignore-eos -q "Count to one hundred." >"$work/answer" 2>&1 &
  local call=$!
  until [ -s "$work/answer" ]; do
    kill -0 "$call" 2>/dev/null || break
    sleep 0.05
  done
  local from=$SECONDS
  docker stop -t 40 "$name" >/dev/null
  say "stopped within $((SECONDS - from)) s"
  wait "$call" || fail "the running answer was cut: $(cat "$work/answer")"
  local code
  code=$(docker inspect --format '{{.State.ExitCode}}' "$name")
  [ "$code" = 0 ] || fail "exit code $code after SIGTERM"
  docker logs "$name" 2>&1 | grep -q stopped || fail "no word of the shutdown in the log"
}

check_token() {
  echo "$token" >"$work/token"
  chmod 0444 "$work/token"
  docker run -d --name "$name-token" "${hardened[@]}" -p 127.0.0.1::8001 \
    -v "$work/token:/run/secrets/quantd_tokens:ro" "$tag" >/dev/null
  local server
  server=$(published "$name-token")
  wait_ready "$name-token" "$bin/quantctl" --server "$server" --token-file "$work/token" status
  if "$bin/quantctl" --server "$server" status >"$work/refused" 2>&1; then fail "served without the token"; fi
  docker stop -t 20 "$name-token" >/dev/null
}

check_socket() {
  docker run -d --name "$name-socket" "${hardened[@]}" --network none -e QUANTD_LISTEN=unix:/tmp/quantd.sock "$tag" \
    --metrics-listen off >/dev/null
  wait_ready "$name-socket" docker exec "$name-socket" quantctl --server unix:/tmp/quantd.sock status
  docker stop -t 20 "$name-socket" >/dev/null
  [ "$(docker inspect --format '{{.State.ExitCode}}' "$name-socket")" = 0 ] || fail "exit code on a Unix socket"
}

compose() { "${compose_command[@]}" -p "$name" "${compose_files[@]}" "$@"; }

# compose.yaml as it is, on free ports.
check_compose() {
  if docker compose version >/dev/null 2>&1; then
    compose_command=(docker compose)
  elif command -v docker-compose >/dev/null; then
    compose_command=(docker-compose)
  else
    say "no docker compose here: compose.yaml not tried"
    return 0
  fi
  export QUANTD_IMAGE=$tag QUANTD_TOKENS=$work/token QUANTD_PORT=0 QUANTD_METRICS_PORT=0 QUANTD_CPUS=1
  compose_files=(-f docker/compose.yaml)
  compose up -d --no-build >"$work/compose" 2>&1 || fail "compose up: $(cat "$work/compose")"
  local container
  container=$(compose ps -q quantd)
  wait_ready "$container" "$bin/quantctl" --server "$(published "$container")" --token-file "$work/token" status
  wait_ready "$container" sh -c "docker inspect --format '{{.State.Health.Status}}' $container | grep -qx healthy"
  compose stop >/dev/null 2>&1
  [ "$(docker inspect --format '{{.State.ExitCode}}' "$container")" = 0 ] || fail "exit code under compose"
  say "compose.yaml works"
}

require_engine
# Binaries of another distribution need other libraries.
grep -qs '^VERSION_CODENAME=bookworm' /etc/os-release || full=1
for binary in quantd quantctl; do
  [ -x "$bin/$binary" ] || { echo "test_image.sh: $bin/$binary is missing; build it first" >&2; exit 1; }
done
trap cleanup EXIT
find_base
build_image
check_image
fill_volume
start_server
check_confinement
use_server
check_health
stop_while_answering
check_token
check_socket
check_compose
say "passed"
