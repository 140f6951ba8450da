#!/usr/bin/env bash
# install_dependencies.sh [build|run] [PACKAGE...]: what quantd needs on a bare Debian 12, and more. Root, or sudo.
set -euo pipefail

build_packages=(
  build-essential cmake ninja-build ccache pkg-config git ca-certificates
  libgrpc++-dev libgrpc-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc libabsl-dev
  nlohmann-json3-dev libicu-dev libpcre2-dev libre2-dev libxxhash-dev libssl-dev
  libspdlog-dev prometheus-cpp-dev libcli11-dev libcurl4-openssl-dev zlib1g-dev
  ocl-icd-opencl-dev opencl-headers opencl-clhpp-headers pocl-opencl-icd
  libgtest-dev libgmock-dev libbenchmark-dev
  python3 python3-venv python3-pip curl
)
run_packages=(
  libgrpc++1.51 libprotobuf32 libabsl20220623 libicu72 libpcre2-8-0 libre2-9 libssl3
  libspdlog1.10 libprometheus-cpp-core1.0 libprometheus-cpp-pull1.0 libgomp1 ocl-icd-libopencl1 ca-certificates
)

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
    echo "install_dependencies.sh: run it as root, or install sudo; it needs apt-get" >&2
    exit 1
  fi
}

case "${1:-build}" in
  build) packages=("${build_packages[@]}") ;;
  run) packages=("${run_packages[@]}") ;;
  *) echo "install_dependencies.sh: unknown argument $1 (known: build, run)" >&2; exit 2 ;;
esac
packages+=("${@:2}")

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing+=("$package")
done
[ ${#missing[@]} = 0 ] && exit 0

echo "installing: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
as_root apt-get update -qq
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
