# shellcheck shell=bash
# Sourced by the programs here: steps, waiting, and exact counts of lines that consumers print.

work=$(mktemp -d)
members=()
# Consumers end with the program, however it ends.
clean_up() {
  local pid
  for pid in "${members[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 143' TERM INT

step() { printf 'step: %s\n' "$*"; }
fail() {
  printf 'failed: %s\n' "$*" >&2
  tail -n 5 "$work"/*.err >&2 2>/dev/null || true
  exit 1
}

# until_true WHAT command…: asks again until the command succeeds, for a minute.
until_true() {
  local what=$1 deadline=$((SECONDS + 60))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || fail "it never came true that $what"
    sleep 0.2
  done
}

# The lines of files; how many, and whether that many.
lines() { cat "$@" 2>/dev/null | wc -l; }
have_lines() { [ "$(lines "${@:2}")" -ge "$1" ]; }

# same WHAT WANTED FOUND
same() { [ "$2" = "$3" ] || fail "$1: wanted \`$2\`, found \`$3\`"; }

# exactly COUNT file…: so many lines, and no two alike.
exactly() {
  same 'lines of all consumers' "$1" "$(lines "${@:2}")"
  same 'different lines of all consumers' "$1" "$(sort -u "${@:2}" | wc -l)"
}

# Ends a consumer as a user does, with a signal, and waits for it.
leave() {
  kill -TERM "$1"
  wait "$1" 2>/dev/null || true
}
