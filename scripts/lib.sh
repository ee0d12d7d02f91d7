# shellcheck shell=bash
# Sourced by the other scripts: installs what is missing and says so, times the stages. Every need_* is quick and silent when
# nothing is missing.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit
# Absolute, because programs with another working directory read it too.
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")

say() { printf '==> %s\n' "$*"; }
fail() { printf '==> failed: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
# at_least 1.95 1.100.2: is the second version not below the first?
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }
first_number() { grep -oE '[0-9]+(\.[0-9]+)*' | head -n 1; }

# cargo build for components that are shipped: each as one program with all that it is made from, which saves `audit` some 6 % of the host's CPU for an
# event. (It is a quarter smaller by that, task-api a twelfth; the others are a tenth larger.) Not in the profile, which is the host's as well.
build_components() {
  CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 cargo build --release --target wasm32-wasip2 "$@"
}

# --- stages ---------------------------------------------------------------------------------------------------------------

stage_lines=()
stage_name=
stage_began=0

# stage NAME command…: runs the command and keeps its time. Not `command || …`: that would switch off `set -e` inside it.
stage() {
  stage_name=$1 stage_began=$SECONDS
  shift
  say "$stage_name"
  "$@"
  stage_lines+=("$(printf '%5d s  %s' $((SECONDS - stage_began)) "$stage_name")")
  stage_name=
}

# The table of stages; on a failure it ends with the stage that failed. Scripts with stages: trap stage_summary EXIT
stage_summary() {
  say 'time by stage'
  if [ ${#stage_lines[@]} -gt 0 ]; then printf '%s\n' "${stage_lines[@]}"; fi
  if [ -n "$stage_name" ]; then printf '%5d s  %s: FAILED\n' $((SECONDS - stage_began)) "$stage_name"; fi
  printf '%5d s  in all\n' "$SECONDS"
}

# --- what must be there ---------------------------------------------------------------------------------------------------

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif have sudo; then sudo "$@"
  else fail "this needs root and there is no sudo; as root run: $*"
  fi
}

# Shows what the command printed only if it failed.
quietly() {
  local output
  output=$("$@" 2>&1) || { printf '%s\n' "$output" >&2; fail "$*"; }
}

apt_fresh=
# need_apt package…: installs those that are missing.
need_apt() {
  local package missing=()
  have apt-get || fail "missing: $* (names of Debian packages); this machine has no apt-get, so install their counterparts by hand"
  for package in "$@"; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] && ! have sudo; then
    fail "missing packages; as root run: apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  fi
  say "installing ${missing[*]}"
  if [ -z "$apt_fresh" ]; then quietly as_root apt-get update; apt_fresh=yes; fi
  quietly as_root env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 \
    apt-get install -y --no-install-recommends "${missing[@]}"
}

# cargo of at least the workspace's rust-version, and the guests' target.
need_rust() {
  local wanted version
  PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  have cargo || fail "no cargo; get Rust $wanted from https://rustup.rs: curl https://sh.rustup.rs -sSf | sh"
  version=$(cargo --version | first_number)
  at_least "$wanted" "$version" || fail "cargo is $version, at least $wanted is needed: rustup update stable"
  if [ ! -d "$(rustc --print sysroot)/lib/rustlib/wasm32-wasip2" ]; then
    have rustup || fail "this Rust cannot build for wasm32-wasip2 and there is no rustup to add it; get Rust from https://rustup.rs"
    say 'adding the Rust target wasm32-wasip2'
    rustup target add wasm32-wasip2
  fi
}

need_lints() {
  if cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1; then return; fi
  have rustup || fail "no cargo fmt or cargo clippy, and no rustup to add them"
  say 'adding rustfmt and clippy'
  rustup component add rustfmt clippy
}

# librdkafka is compiled from source, TLS is the system's OpenSSL. Without zlib's headers the crate compiles its own copy, so they are
# not asked for.
need_build_tools() {
  if ! { have gcc && have g++ && have make; }; then need_apt gcc g++ make libc6-dev; fi
  if ! { have pkg-config && pkg-config --exists openssl; }; then need_apt pkg-config libssl-dev; fi
}

# The folder of the newest PostgreSQL programs, of version 15 or later; nothing if there is none.
postgres_bin() {
  local postgres dir version best='' best_version=14
  for postgres in "$(command -v postgres || true)" /usr/lib/postgresql/*/bin/postgres; do
    dir=$(dirname "$postgres")
    [ -x "$postgres" ] && [ -x "$dir/initdb" ] && [ -x "$dir/pg_ctl" ] || continue
    version=$("$postgres" --version | first_number)
    version=${version%%.*}
    if [ "$version" -gt "$best_version" ]; then best=$dir best_version=$version; fi
  done
  printf '%s' "$best"
}

# The programs only: every start makes its own private server.
need_postgres() {
  local conf=/etc/postgresql-common/createcluster.conf
  [ -z "$(postgres_bin)" ] || return 0
  if have apt-get && { [ "$(id -u)" = 0 ] || have sudo; } && ! grep -qs '^create_main_cluster *= *false' "$conf"; then
    # Debian's package would create and start a cluster of its own.
    say "no cluster of its own for Debian's postgresql package ($conf)"
    as_root mkdir -p "${conf%/*}"
    printf 'create_main_cluster = false\n' | as_root tee -a "$conf" >/dev/null
  fi
  need_apt postgresql
  [ -n "$(postgres_bin)" ] || fail "PostgreSQL 15 or later is needed, and this system's package is older: see https://www.postgresql.org/download/"
}

java_version() { java -version 2>&1 | first_number; }

# Apache Kafka's jars for the tests; scripts/kafka/pom.xml names the version.
need_kafka_libs() {
  local libs=$target/kafka/libs version
  version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' scripts/kafka/pom.xml)
  if ! have java || ! at_least 17 "$(java_version)"; then
    need_apt default-jre-headless
    at_least 17 "$(java_version)" || fail "Apache Kafka needs Java 17 or later; \`java -version\` says $(java_version)"
  fi
  if [ ! -e "$libs/kafka_2.13-$version.jar" ] || [ ! -e "$libs/kafka-tools-$version.jar" ]; then
    have mvn || need_apt maven
    say "fetching Apache Kafka $version"
    rm -rf "$libs" "$libs.part"
    mvn -q -B -Dstyle.color=never -f scripts/kafka/pom.xml dependency:copy-dependencies -DoutputDirectory="$libs.part"
    mv "$libs.part" "$libs"
  fi
  export TIDEMILL_TEST_KAFKA_LIBS=$libs
}

# The clients that the embedded broker is tried with; host/tests/clients names their versions. Packages run no scripts at install.
need_other_clients() {
  local list=host/tests/clients python=$target/clients/python node=$target/clients/node
  have kcat || need_apt kcat
  if ! { have node && have npm; }; then need_apt nodejs npm; fi
  python3 -c 'import ensurepip' 2>/dev/null || need_apt python3 python3-venv
  if ! cmp -s "$list/requirements.txt" "$python/requirements.txt"; then
    say "installing $(sed '/^#/d' "$list/requirements.txt" | xargs)"
    rm -rf "$python"
    quietly python3 -m venv "$python"
    quietly "$python/bin/pip" install --only-binary :all: -r "$list/requirements.txt"
    cp "$list/requirements.txt" "$python"
  fi
  if ! cmp -s "$list/package-lock.json" "$node/node_modules/package-lock.json"; then
    say "installing $(sed -n '/dependencies/,/}/s/^ *"\(.*\)": "\([0-9].*\)".*/\1@\2/p' "$list/package.json" | xargs)"
    mkdir -p "$node"
    cp "$list/package.json" "$list/package-lock.json" "$node"
    quietly npm ci --prefix "$node" --ignore-scripts --no-fund --no-audit
    cp "$list/package-lock.json" "$node/node_modules"
  fi
}

# Unoptimised and without debug information: compiles in a fraction of the time and still checks the tree in seconds.
need_cargo_deny() {
  local version=0.20.2 began=$SECONDS
  if [ "$(cargo deny --version 2>/dev/null | first_number)" = "$version" ]; then return; fi
  say "installing cargo-deny $version"
  env -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=false cargo install --quiet --debug --locked cargo-deny --version "$version"
  say "cargo-deny took $((SECONDS - began)) s"
}

# --- what every script builds ---------------------------------------------------------------------------------------------

# The workspace's packages but the host. They are always built apart from it: in one call cargo unites the features of all
# packages, and wasmtime would be compiled once more.
# shellcheck disable=SC2034
guests=(--workspace --exclude tidemill)

# `--examples` (the host has none) makes cargo count the features that the tests' dependencies ask for; without it wasmtime and
# librdkafka's bindings are compiled once for this and once more for the tests.
build_host() { cargo build -p tidemill --bin tidemill --examples "$@"; }
