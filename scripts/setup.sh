#!/usr/bin/env bash
# Sets a checkout up: system packages, `.venv` with the pinned wheels, and stable links in `.deps/`.
# Idempotent; the second run takes well under a second. With `--dev` it also installs what zoo/train.py,
# tests/parity, tests/k8s, tests/readers, tests/stores, tests/ui, tests/monitoring and the Python side of the tests need, with `--bench` the benches' peers:
# PostgreSQL and torchvision.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
die() { say "setup: $*"; exit 1; }

# 1. System packages. cmake and nasm build the vendored libjpeg-turbo; a C++ compiler builds tch's shim.
packages=()
command -v cmake >/dev/null || packages+=(cmake)
command -v nasm >/dev/null || packages+=(nasm)
command -v c++ >/dev/null || packages+=(g++)
python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
[ "${1:-}" = "--bench" ] && ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && packages+=(postgresql)
[ "${1:-}" = "--dev" ] && ! command -v chromium >/dev/null && packages+=(chromium)
[ "${1:-}" = "--dev" ] && ! command -v npm >/dev/null && packages+=(nodejs npm)
if [ ${#packages[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ]; then
    say "setup: installing ${packages[*]}"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${packages[@]}" >/dev/null
  else
    die "missing system packages; run: sudo apt-get install ${packages[*]}"
  fi
fi
command -v cargo >/dev/null || die "no Rust toolchain; install one from https://rustup.rs, then run this again"

# 2. The wheels.
wanted=(requirements.txt)
[ "${1:-}" = "--dev" ] && wanted+=(requirements-dev.txt)
[ "${1:-}" = "--bench" ] && wanted+=(requirements-bench.txt)
[ -x .venv/bin/pip ] || python3 -m venv .venv # again, if it was interrupted
for file in "${wanted[@]}"; do
  stamp=".venv/.installed-$file"
  cmp -s "$file" "$stamp" && continue
  say "setup: installing $file into .venv (torch is a download of about 3 GB the first time)"
  [ -x .venv/bin/uv ] || .venv/bin/pip install -q uv
  .venv/bin/uv pip install -q --python .venv/bin/python -r "$file"
  cp "$file" "$stamp"
done

# 3. Prometheus, unpacked and not installed: installing it starts a server on port 9090, and another one beside it.
if [ "${1:-}" = "--dev" ] && [ ! -x .deps/prometheus/usr/bin/promtool ]; then
  say "setup: unpacking prometheus into .deps/prometheus"
  [ "$(id -u)" = 0 ] && apt-get update -qq
  rm -rf .deps/prometheus && mkdir -p .deps/prometheus
  (cd .deps/prometheus && apt-get download -qq -o APT::Sandbox::User=root prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb) ||
    die "the package prometheus can't be fetched; run: sudo apt-get update, then this again"
fi

# 4. Azurite, which stands in for Azure. Later versions want a later Node than Debian 12 has.
azurite=3.35.0
if [ "${1:-}" = "--dev" ] && ! grep -qs "\"version\": \"$azurite\"" .deps/azurite/node_modules/azurite/package.json; then
  say "setup: installing Azurite $azurite into .deps/azurite"
  rm -rf .deps/azurite && mkdir -p .deps/azurite
  npm install --prefix .deps/azurite --silent --no-save --no-fund --no-audit "azurite@$azurite" || die "npm can't install azurite@$azurite"
fi

# 5. Stable links, so that neither cargo nor the loader needs an environment variable.
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p .deps/lib
ln -sfnr "$site/torch" .deps/torch
nccl=$(ls "$site"/nvidia/nccl/lib/libnccl.so.* 2>/dev/null | head -n 1 || true)
[ -n "$nccl" ] && ln -sfnr "$nccl" .deps/lib/libnccl.so
[ -e .deps/torch/lib/libtorch_cpu.so ] || die ".venv has no libtorch; delete .venv and run this again"
