#!/usr/bin/env bash
# kcat, that is librdkafka of a distribution, against a broker: kcat.sh ADDRESS NAME. The topic NAME with four partitions is there.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
broker=$1 topic=$2 group=$2-group
kc() { timeout 60 kcat -b "$broker" -X broker.address.family=v4 "$@"; }

produce() { # CODEC COUNT
  seq "$2" | sed "s/.*/$1-key-&\t$1-value-&/" |
    kc -P -t "$topic" -K '\t' -H "codec=$1" -z "$1" -X enable.idempotence=true -X partitioner=murmur2_random
}

member() { # NAME: runs in the background
  kcat -b "$broker" -X broker.address.family=v4 -X auto.offset.reset=earliest -X partition.assignment.strategy="$strategy" \
    -G "$group" -u -f '%p %o %k %h %s\n' "$topic" >"$work/$1" 2>"$work/$1.err" &
  members+=($!)
}

partitions_of() { awk '{ print $1 }' "$work/$1" | sort -u | wc -l; }

kcat -V | sed -n 's/^Version/version: kcat/p'
step 'metadata'
same 'partitions' 4 "$(kc -L -J -t "$topic" | grep -o '"partition":' | wc -l)"

total=0
for strategy in range cooperative-sticky; do
  group=$topic-$strategy seen=("$work/a-$strategy" "$work/b-$strategy")
  step "two members with $strategy, 1,000 records each of: none gzip snappy lz4 zstd"
  member "a-$strategy"
  if [ "$total" = 0 ]; then produce none 1000; total=1000; fi
  until_true 'the first member reads what is there' have_lines "$total" "${seen[@]}"
  same 'partitions of the only member' 4 "$(partitions_of "a-$strategy")"
  member "b-$strategy"
  for codec in gzip snappy lz4 zstd; do produce "$codec" 1000; total=$((total + 1000)); done
  until_true "all $total records are read" have_lines "$total" "${seen[@]}"
  # The second member may have come when all was read.
  more() { produce none 100; total=$((total + 100)); sleep 1; [ "$(partitions_of "b-$strategy")" = 2 ]; }
  until_true 'the second member has two partitions' more
  until_true "all $total records are read" have_lines "$total" "${seen[@]}"
  leave "${members[1]}"
  produce none 1000
  total=$((total + 1000))
  until_true "the first member reads on alone" have_lines "$total" "${seen[@]}"
  leave "${members[0]}"
  members=()
  exactly "$total" "${seen[@]}"
done

step 'keys, headers and values are what was sent'
same 'malformed lines' 0 "$(cat "$work/a-range" "$work/b-range" |
  grep -cvE '^[0-3] [0-9]+ (none|gzip|snappy|lz4|zstd)-key-([0-9]+) codec=\1 \1-value-\2$' || true)"

step 'a consumer without a group, and offsets by time'
kc -C -t "$topic" -o beginning -e -q -f '%p %o\n' >"$work/all"
exactly "$total" "$work/all"
same 'offsets of a time long ago' 0 "$(kc -Q -t "$topic:0:1" | awk '{ print $NF }')"

step 'an idle group goes on where it stopped'
strategy=range group=$topic-range seen=("$work/a-range" "$work/b-range" "$work/again")
produce zstd 10
total=$((total + 10))
member again
until_true 'the group has read what came meanwhile' have_lines "$total" "${seen[@]}"
leave "${members[0]}"
members=()
exactly "$total" "${seen[@]}"
