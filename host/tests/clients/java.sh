#!/usr/bin/env bash
# Apache Kafka's own command line tools, that is the Java clients, against a broker: java.sh ADDRESS NAME LIBS.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
broker=$1 topic=$2 libs=$3
tools=org.apache.kafka.tools
java=(java -Xmx160m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$libs/*")
tool() { timeout 60 "${java[@]}" "$1" --bootstrap-server "$broker" "${@:2}" 2>"$work/tool.err" || fail "$1 ${*:2}"; }
topics() { tool $tools.TopicCommand "$@"; }
groups() { tool $tools.consumer.group.ConsumerGroupCommand "$@"; }

produce() { # CODEC COUNT; idempotent, which is the Java client's default
  seq "$2" | sed "s/.*/codec:$1,n:&\t$1-key-&\t$1-value-&/" |
    tool $tools.ConsoleProducer --topic "$topic" --compression-codec "$1" --command-property enable.idempotence=true \
      --reader-property parse.key=true --reader-property parse.headers=true
}

reader=("${java[@]}" $tools.consumer.ConsoleConsumer --bootstrap-server "$broker" --topic "$topic"
  --formatter-property print.partition=true --formatter-property print.offset=true
  --formatter-property print.headers=true --formatter-property print.key=true)

member() { # NAME: runs in the background, one line for each record
  "${reader[@]}" --group "$group" --from-beginning --command-property partition.assignment.strategy="org.apache.kafka.clients.consumer.$assignor" \
    >"$work/$1" 2>"$work/$1.err" &
  members+=($!)
}

# sum COLUMN: of a group's description, which is a table below a blank line.
sum() { awk -v c="$1" '$2 == topic { s += $c } END { print s + 0 }' topic="$topic"; }
partitions_of() { awk '{ print $1 }' "$work/$1" | sort -u | wc -l; }

sed -n 's/.*<kafka.version>\(.*\)<.*/version: kafka-clients and kafka-tools \1/p' "$(dirname "$0")/../../../scripts/kafka/pom.xml"
step 'create, describe, alter, grow a topic'
topics --create --topic "$topic" --partitions 3 --replication-factor 1 --config retention.ms=3600000 >"$work/out"
topics --alter --topic "$topic" --partitions 4
topics --describe --topic "$topic" >"$work/out"
grep -q 'PartitionCount: 4.*retention.ms=3600000' "$work/out" || fail "$(cat "$work/out")"
configs() { tool kafka.admin.ConfigCommand --entity-type topics --entity-name "$topic" "$@" >"$work/out"; }
configs --alter --add-config segment.bytes=2097152 --delete-config retention.ms
configs --describe
grep -q 'segment.bytes=2097152' "$work/out" || fail "$(cat "$work/out")"
if grep -q 'retention.ms' "$work/out"; then fail "$(cat "$work/out")"; fi
topics --list >"$work/out"
grep -qx "$topic" "$work/out" || fail "$(cat "$work/out")"

total=0
for assignor in RangeAssignor CooperativeStickyAssignor; do
  group=$topic-$assignor seen=("$work/a-$assignor" "$work/b-$assignor")
  step "two members with $assignor, 1,000 records each of: none gzip snappy lz4 zstd"
  member "${seen[0]##*/}"
  if [ "$total" = 0 ]; then produce none 1000; total=1000; fi
  until_true 'the first member reads what is there' have_lines "$total" "${seen[@]}"
  member "${seen[1]##*/}"
  for codec in gzip snappy lz4 zstd; do produce "$codec" 1000; total=$((total + 1000)); done
  until_true "all $total records are read" have_lines "$total" "${seen[@]}"
  # The second member may have come when all was read.
  more() { produce none 100; total=$((total + 100)); sleep 1; [ "$(partitions_of "${seen[1]##*/}")" = 2 ]; }
  until_true 'the second member has two partitions' more
  until_true "all $total records are read" have_lines "$total" "${seen[@]}"
  groups --describe --group "$group" --members >"$work/out"
  same 'partitions of each member' '2 2' "$(awk -v g="$group" '$1 == g { print $NF }' "$work/out" | xargs)"
  leave "${members[1]}"
  produce none 1000
  total=$((total + 1000))
  until_true 'the first member reads on alone' have_lines "$total" "${seen[@]}"
  leave "${members[0]}"
  members=()
  exactly "$total" "${seen[@]}"
  groups --describe --group "$group" >"$work/out"
  same 'committed' "$total" "$(sum 4 <"$work/out")"
  same 'lag' 0 "$(sum 6 <"$work/out")"
done

step 'keys, headers and values are what was sent'
same 'malformed lines' 0 "$(cat "$work"/?-RangeAssignor | grep -cvE \
  $'^Partition:[0-3]\tOffset:[0-9]+\tcodec:(none|gzip|snappy|lz4|zstd),n:([0-9]+)\t\\1-key-\\2\t\\1-value-\\2$' || true)"

step 'list groups; reset offsets; delete offsets, then the group'
groups --list >"$work/out"
for assignor in RangeAssignor CooperativeStickyAssignor; do grep -qx "$topic-$assignor" "$work/out" || fail "$(cat "$work/out")"; done
groups --reset-offsets --group "$group" --topic "$topic" --to-earliest --execute >"$work/out"
groups --describe --group "$group" >"$work/out"
same 'committed after the reset' 0 "$(sum 4 <"$work/out")"
same 'lag after the reset' "$total" "$(sum 6 <"$work/out")"
groups --reset-offsets --group "$group" --topic "$topic:0" --to-offset 5 --execute >"$work/out"
groups --delete-offsets --group "$group" --topic "$topic:1,2,3" >"$work/out"
groups --describe --group "$group" >"$work/out"
same 'committed after the rest was deleted' 5 "$(sum 4 <"$work/out")"
groups --delete --group "$group" >"$work/out"
groups --list >"$work/out"
if grep -qx "$group" "$work/out"; then fail 'the deleted group is still listed'; fi

step 'delete records; the earliest offset moves and a read begins there'
printf '{"partitions":[{"topic":"%s","partition":0,"offset":100},{"topic":"%s","partition":1,"offset":-1}],"version":1}' \
  "$topic" "$topic" >"$work/offsets.json"
tool $tools.DeleteRecordsCommand --offset-json-file "$work/offsets.json" >"$work/out"
earliest() { tool $tools.GetOffsetShell --topic-partitions "$topic:$1" --time "$2" | cut -d: -f3; }
same 'earliest of partition 0' 100 "$(earliest 0 -2)"
same 'earliest of partition 1 is its end' "$(earliest 1 -1)" "$(earliest 1 -2)"
timeout 60 "${reader[@]}" --partition 0 --offset 0 --command-property auto.offset.reset=earliest --max-messages 1 \
  >"$work/out" 2>"$work/out.err" || fail 'no record after the deleted ones'
same 'first record' 'Offset:100' "$(cut -f2 "$work/out")"

step 'delete the topic'
topics --delete --topic "$topic"
topics --list >"$work/out"
if grep -qx "$topic" "$work/out"; then fail 'the deleted topic is still listed'; fi
