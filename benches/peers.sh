#!/usr/bin/env bash
# Measures this server and its peers side by side, three nodes each on this machine, everything one after the other.
#   NCBENCH=path/to/ncbench CORACLE=target/release/coracle [RNACOS=path] [ETCD=path] [SECONDS_EACH=8] benches/peers.sh [what…]
# PROTOCOL=grpc measures Nacos servers over gRPC instead of HTTP. what: publish read push idle (all unless told). A peer that is not named is left out, and said so. Prints one JSON line a run.
set -euo pipefail
: "${NCBENCH:?path of the load generator}" "${CORACLE:?path of the server}"
each=${SECONDS_EACH:-8}
what=${*:-publish read push idle}
work=$(mktemp -d); pids=()
stop() { [ ${#pids[@]} = 0 ] || kill -9 "${pids[@]}" 2> /dev/null || true; wait 2> /dev/null || true; pids=(); }
trap 'stop; rm -rf "$work"' EXIT
wait_for() { for _ in $(seq 600); do curl -fsS "$1" > /dev/null 2>&1 && return; sleep 0.05; done; echo "no answer from $1" >&2; exit 1; }

start_coracle() {
  M=1=127.0.0.1:17848,2=127.0.0.1:17858,3=127.0.0.1:17868
  for n in 1 2 3; do
    "$CORACLE" server --node-id $n --members $M --data "$work/c$n" --port $((18838 + 10 * n)) > "$work/c$n.log" 2>&1 & pids+=($!)
  done
  for p in 18848 18858 18868; do wait_for http://127.0.0.1:$p/readyz; done
  servers=127.0.0.1:18848,127.0.0.1:18858,127.0.0.1:18868; protocol=${PROTOCOL:-http1}
}
start_rnacos() {
  for n in 1 2 3; do
    RNACOS_HTTP_PORT=$((28838 + 10 * n)) RNACOS_GRPC_PORT=$((29838 + 10 * n)) RNACOS_CONSOLE_PORT=$((30838 + 10 * n)) \
    RNACOS_DATA_DIR="$work/r$n" RNACOS_RAFT_NODE_ID=$n RNACOS_RAFT_NODE_ADDR=127.0.0.1:$((29838 + 10 * n)) \
    RNACOS_RAFT_AUTO_INIT=$([ $n = 1 ] && echo true || echo false) \
    $([ $n = 1 ] || echo env RNACOS_RAFT_JOIN_ADDR=127.0.0.1:29848) "$RNACOS" > "$work/r$n.log" 2>&1 & pids+=($!)
    sleep 2
  done
  sleep 4
  servers=127.0.0.1:28848,127.0.0.1:28858,127.0.0.1:28868; protocol=${PROTOCOL:-http1}
}
start_etcd() {
  cluster=e1=http://127.0.0.1:32380,e2=http://127.0.0.1:32390,e3=http://127.0.0.1:32400
  for n in 1 2 3; do
    peer=http://127.0.0.1:$((32370 + 10 * n)); client=http://127.0.0.1:$((32369 + 10 * n))
    "$ETCD" --name e$n --data-dir "$work/e$n" --listen-peer-urls $peer --initial-advertise-peer-urls $peer \
      --listen-client-urls $client --advertise-client-urls $client --initial-cluster $cluster > "$work/e$n.log" 2>&1 & pids+=($!)
  done
  sleep 5
  servers=127.0.0.1:32379,127.0.0.1:32389,127.0.0.1:32399; protocol=etcd
}
bench() { # name workload arguments…
  local name=$1; shift
  local pid; pid=$(IFS=,; echo "${pids[*]}")
  echo "{\"system\":\"$name\",\"run\":$("$NCBENCH" "$1" --json --protocol $protocol --servers $servers --pid "$pid" "${@:2}" 2>> "$work/bench.log" || echo '"failed"')}"
}
for system in coracle etcd rnacos; do
  case $system in
    coracle) start_coracle ;;
    etcd) [ -n "${ETCD:-}" ] || { echo "# etcd left out: ETCD is not set"; continue; }; start_etcd ;;
    rnacos) [ -n "${RNACOS:-}" ] || { echo "# r-nacos left out: RNACOS is not set"; continue; }; start_rnacos ;;
  esac
  for w in $what; do
    case $w in
      publish) for c in 1 16 64; do bench $system publish --duration "$each" --concurrency $c; done ;;
      read) bench $system read --duration "$each" --concurrency 64 ;;
      push) bench $system push --duration "$each" --keys "${KEYS:-100}" --subscribers "${SUBSCRIBERS:-5000}" --publish-rate 1 ;;
      idle) bench $system idle --hold 3 --subscribers "${IDLE:-5000}" ;;
    esac
  done
  stop
done
