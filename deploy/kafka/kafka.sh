#!/usr/bin/env bash
# A single-node Apache Kafka for tests, chaos runs and benchmarks. Without authentication: not for production.
#
#   kafka.sh fetch                        download the broker and prepare fast starts (idempotent)
#   kafka.sh start --data DIR [options]   run a broker in the foreground until a signal ends it
#       --host ADDRESS           clients connect here (127.0.0.1)
#       --port PORT              and here (9092)
#       --controller-port PORT   the broker's own second port (9093)
#       --partitions N           create topics on first use, with N partitions (off: they must exist)
#       --heap SIZE              Java heap (320m)
#   kafka.sh topics --port PORT NAME:PARTITIONS...
#                                         create topics that do not exist yet
#   kafka.sh pin                          after another version was written into pom.xml: download it and write
#                                         SHA512SUMS, to be read before it is committed
#
# `start` becomes the broker (exec), so whoever starts it owns its process: TERM stops it cleanly, and after
# KILL the same command on the same directory recovers it. Each broker needs its own directory and ports;
# then any number run beside each other. The log is DIR/broker.log.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$here/pom.xml")
home=$root/.tools/kafka/$version

die() {
    echo "kafka.sh: $*" >&2
    exit 1
}

usage() {
    sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

require() {
    command -v "$1" >/dev/null || die "$1 is missing; install it with: apt-get install -y $2 (or run: deploy/install/deps.sh test)"
}

# Every jar, and no other, is the one whose SHA-512 is committed. Half a second at most, so at every use.
verify() {
    local differing
    differing=$(cd "$home/lib" && sha512sum -- *.jar | { diff - "$here/SHA512SUMS" || true; } |
        sed -n 's/^[<>] [0-9a-f]*  //p' | sort -u)
    [ -z "$differing" ] || die "not what SHA512SUMS says: ${differing//$'\n'/, }. Nothing of it was run;" \
        "remove $home and run: $0 fetch"
}

# The class archive below is valid for exactly this class path, so it is the same, sorted, everywhere.
class_path() {
    printf '%s:' "$home"/lib/*.jar
}

# Writes the settings of a single node that is broker and controller in one.
write_settings() { # DIR PORT CONTROLLER_PORT PARTITIONS HOST
    local auto_create=false
    [ "$4" -eq 0 ] || auto_create=true
    cat >"$1/server.properties" <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$3
listeners=BROKER://$5:$2,CONTROLLER://127.0.0.1:$3
advertised.listeners=BROKER://$5:$2
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
log.dirs=$1/log
auto.create.topics.enable=$auto_create
num.partitions=$(($4 > 0 ? $4 : 1))
# One node: nothing can be replicated.
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# Small: fewer threads, partitions and buffers than a server's defaults.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=1
share.coordinator.state.topic.num.partitions=1
num.network.threads=2
num.io.threads=2
background.threads=2
num.recovery.threads.per.data.dir=2
log.cleaner.dedupe.buffer.size=4194304
# Fast: a group starts without waiting for more members. A killed broker is refused its own name until its
# old session ends, which is therefore short.
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=300
broker.session.timeout.ms=2000
EOF
}

# A fresh storage directory is a copy of one that was formatted once, with its own identity: Kafka's own
# tool would start a second Java machine each time.
format_storage() { # DIR
    rm -rf "$1/log.new"
    cp -r "$home/storage" "$1/log.new"
    sed -i -e "s/^cluster.id=.*/cluster.id=$(random_id)/" -e "s/^directory.id=.*/directory.id=$(random_id)/" \
        "$1/log.new/meta.properties"
    mv "$1/log.new" "$1/log"
}

# 16 random bytes the way Kafka writes a UUID; the fixed first letter keeps it from starting with '-'.
random_id() {
    echo "A$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=' | tail -c +2)"
}

java_options() { # DIR HEAP
    # SerialGC: the smallest of the collectors, and two cores have nothing to spare for a parallel one.
    printf '%s\n' "-Xms64m" "-Xmx$2" -XX:+UseSerialGC -Xshare:auto -Xlog:disable -Xlog:all=error:stderr \
        -Djava.awt.headless=true "-Dlog4j2.configurationFile=$here/log4j2.properties" \
        "-Dmillrace.kafka.log=$1/broker.log" -cp "$(class_path)"
}

fetch() {
    if [ -e "$home/ready" ]; then
        return
    fi
    require java default-jre-headless
    require mvn maven
    mkdir -p "$home"
    exec 9>"$home/lock"
    flock 9 # two checkouts' worth of tests may start at once
    if [ -e "$home/ready" ]; then
        return
    fi
    download
    verify
    prepare
    touch "$home/ready"
    echo "Kafka $version: ready"
}

download() {
    echo "Kafka $version: downloading (45 MB)"
    rm -rf "${home:?}/lib" "$home/storage" "$home/classes.jsa"
    mvn -B -q -ntp -C -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$home/lib" ||
        die "Maven could not download Kafka $version; look at the lines above, then run again: $0 fetch"
}

pin() {
    require mvn maven
    mkdir -p "$home"
    rm -f "$home/ready"
    download
    (cd "$home/lib" && sha512sum -- *.jar) >"$here/SHA512SUMS"
    echo "$here/SHA512SUMS: $(wc -l <"$here/SHA512SUMS") jars; now run: $0 fetch"
}

# Formats the storage directory that every broker starts from, and runs one broker once to record the
# classes it loads: later starts read them prepared, which halves the time and the processor's work.
prepare() {
    local scratch pid options
    scratch=$(mktemp -d)
    mkdir "$scratch/log"
    mapfile -t options < <(java_options "$scratch" 128m)
    write_settings "$scratch" "$(free_port)" "$(free_port)" 0 127.0.0.1
    java "${options[@]}" kafka.tools.StorageTool format -t "$(random_id)" -c "$scratch/server.properties" \
        >"$scratch/out" 2>&1 || die "cannot format a storage directory: $(tail -n 3 "$scratch/out")"
    cp -r "$scratch/log" "$home/storage"
    java -XX:ArchiveClassesAtExit="$home/classes.jsa" "${options[@]}" kafka.Kafka \
        "$scratch/server.properties" >"$scratch/out" 2>&1 9>&- &
    pid=$!
    for _ in $(seq 300); do
        if grep -qs 'Kafka Server started' "$scratch/broker.log"; then
            break
        fi
        kill -0 "$pid" 2>/dev/null || die "the broker does not start: $(tail -n 5 "$scratch/out")"
        sleep 0.1
    done
    kill "$pid"
    wait "$pid" || true # 143, it was asked to end
    rm -rf "$scratch"
}

free_port() {
    local port
    while true; do
        port=$((20000 + RANDOM % 10000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

start() {
    local data='' host=127.0.0.1 port=9092 controller_port=9093 partitions=0 heap=320m options
    while [ $# -gt 0 ]; do
        [ $# -ge 2 ] || die "$1 needs a value"
        case $1 in
        --data) data=$2 ;;
        --host) host=$2 ;;
        --port) port=$2 ;;
        --controller-port) controller_port=$2 ;;
        --partitions) partitions=$2 ;;
        --heap) heap=$2 ;;
        *) die "unknown option $1; see: $0 help" ;;
        esac
        shift 2
    done
    [ -n "$data" ] || die "start needs --data DIR"
    require java default-jre-headless
    [ -e "$home/ready" ] || die "Kafka is not here yet; fetch it with: $here/kafka.sh fetch"
    verify
    mkdir -p "$data"
    data=$(cd "$data" && pwd)
    [ -e "$data/log" ] || format_storage "$data"
    write_settings "$data" "$port" "$controller_port" "$partitions" "$host"
    mapfile -t options < <(java_options "$data" "$heap")
    exec java "-XX:SharedArchiveFile=$home/classes.jsa" "${options[@]}" kafka.Kafka "$data/server.properties"
}

topics() {
    local port=9092 options topic
    if [ "${1:-}" = --port ]; then
        port=${2:?}
        shift 2
    fi
    [ $# -gt 0 ] || die "topics needs NAME:PARTITIONS"
    verify
    mapfile -t options < <(java_options "$home" 96m)
    for topic in "$@"; do
        java "${options[@]}" org.apache.kafka.tools.TopicCommand --bootstrap-server "127.0.0.1:$port" --create \
            --if-not-exists --topic "${topic%:*}" --partitions "${topic##*:}" --replication-factor 1 |
            sed '/^WARNING: Due to limitations in metric names/d'
    done
}

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
fetch) fetch ;;
start) start "$@" ;;
topics) topics "$@" ;;
pin) pin ;;
help | -h | --help) usage ;;
*) die "unknown command $command; see: $0 help" ;;
esac
