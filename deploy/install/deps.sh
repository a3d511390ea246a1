#!/usr/bin/env bash
# Installs what Millrace lacks on a Debian machine that has Rust. Does nothing, at once, where nothing lacks.
#
#   deps.sh run      to build Millrace and run it on one machine
#   deps.sh test     the same, and what the tests start: a Kafka broker
#   deps.sh check    what the checks need
#
# System packages come through apt (as root, or through sudo), everything else goes to .tools/ in the checkout.
# No service is started or enabled, and no Postgres cluster of Debian's own is created.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tools=$root/.tools

# The ClickHouse engine as a library. Only builds whose hash is pinned here are installed; to move to another
# release change both (`npm view <package>@<version> dist.integrity` shows the hash).
engine_version=26.7.3-stable.1
engine_package=@chdb/lib-linux-x64-gnu
engine_machine=x86_64
engine_sha512='XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw=='

say() {
    echo "deps: $*" >&2
}

die() {
    say "$*"
    exit 1
}

have() {
    command -v "$1" >/dev/null
}

# Each `need_` function below looks for its part; what apt has to bring for it is collected here.
packages=()
# Empty when we are root.
as_root=()

need_rust() {
    # rustup asks for a new shell before its programs are found.
    have cargo || PATH=$PATH:$HOME/.cargo/bin
    have cargo || die "cargo is missing: install Rust through rustup (https://rustup.rs), then run this again"
}

# rdkafka compiles librdkafka, sqlx and zstd compile C as well.
need_build_tools() {
    have cc && have c++ || packages+=(gcc g++ libc6-dev)
    have make || packages+=(make)
    have cmake || packages+=(cmake)
    have pkg-config || packages+=(pkg-config)
    # librdkafka includes the header even when told to build without curl (rust-rdkafka issue 829).
    # Nothing links against it.
    if ! { have cc && echo '#include <curl/curl.h>' | cc -E - >/dev/null 2>&1; }; then
        packages+=(libcurl4-openssl-dev)
    fi
}

need_postgres() {
    if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && ! { have initdb && have postgres; }; then
        packages+=(postgresql)
    fi
}

need_kafka_tools() {
    have java || packages+=(default-jre-headless)
    have mvn || packages+=(maven)
    have kcat || packages+=(kcat)
}

# The collector's tests let fsync fail.
need_strace() {
    have strace || packages+=(strace)
}

# Chaos runs lay cables between network namespaces, and cut them.
need_network_tools() {
    have ip || packages+=(iproute2)
}

# The tests set the clock of the services with it.
need_faketime() {
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || packages+=(faketime)
}

need_shellcheck() {
    have shellcheck || packages+=(shellcheck)
}

engine_is_there() {
    [ -e "$tools/chdb/libchdb.so" ] && [ "$(cat "$tools/chdb/version" 2>/dev/null)" = "$engine_version" ]
}

need_npm_for_engine() {
    engine_is_there || have npm || packages+=(npm)
}

install_packages() {
    [ ${#packages[@]} -gt 0 ] || return 0
    local line="apt-get install -y --no-install-recommends ${packages[*]}"
    have apt-get || die "missing: ${packages[*]} (names as in Debian); install them, then run this again"
    if [ "$(id -u)" -ne 0 ]; then
        have sudo || die "system packages are missing; as root run: $line"
        as_root=(sudo)
    fi
    say "installing ${packages[*]}"
    without_debian_cluster
    "${as_root[@]}" apt-get update -qq || say "apt-get update failed; trying with the package lists that are here"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "${packages[@]}" >"$tools/apt.log" 2>&1 </dev/null ||
        die "apt could not install them ($(grep -m1 '^E:' "$tools/apt.log" || tail -n 1 "$tools/apt.log")); try: $line"
    with_debian_cluster
}

# Debian's Postgres package makes and starts a cluster of its own on port 5432. While ours is being installed,
# a drop-in says no; it goes away again, because the machine's other Postgres installations are not our business.
cluster_drop_in=/etc/postgresql-common/createcluster.d/millrace-install.conf

without_debian_cluster() {
    [[ " ${packages[*]} " == *" postgresql "* ]] || return 0
    "${as_root[@]}" mkdir -p "${cluster_drop_in%/*}"
    echo 'create_main_cluster = false' | "${as_root[@]}" tee "$cluster_drop_in" >/dev/null
    trap with_debian_cluster EXIT
}

with_debian_cluster() {
    [ ! -e "$cluster_drop_in" ] || "${as_root[@]}" rm -f "$cluster_drop_in"
}

install_engine() {
    ! engine_is_there || return 0
    [ "$(uname -m)" = "$engine_machine" ] || die "no ClickHouse engine is pinned for $(uname -m): put a" \
        "libchdb.so $engine_version into $tools/chdb and its version into $tools/chdb/version, or run the" \
        "services against a ClickHouse server"
    local scratch=$tools/chdb/new package
    rm -rf "$scratch"
    mkdir -p "$scratch"
    say "downloading the ClickHouse engine (180 MB)"
    package=$(cd "$scratch" && npm pack --silent "$engine_package@$engine_version" 2>npm.log) ||
        die "npm could not download $engine_package $engine_version:" \
            "$(grep -m1 -i 'error' "$scratch/npm.log" || echo 'no reason given'); check the network and run this again"
    echo "$(base64 -d <<<"$engine_sha512" | od -An -v -tx1 | tr -d ' \n')  $scratch/$package" |
        sha512sum --check --status ||
        die "$package is not the file whose hash is pinned in $0; it was not installed"
    # 570 MB; the version is written last, so a copy cut short by a full disk is never taken for whole.
    tar -xzf "$scratch/$package" -C "$scratch" package/libchdb.so ||
        die "cannot unpack the engine; 800 MB of free disk are needed in $tools"
    rm -f "$tools/chdb/version"
    mv "$scratch/package/libchdb.so" "$tools/chdb/libchdb.so"
    echo "$engine_version" >"$tools/chdb/version"
    rm -rf "$scratch"
}

what=${1:-}
mkdir -p "$tools"
exec 9>"$tools/deps.lock"
flock 9 # two `make` at once

case $what in
run | test)
    need_rust
    need_build_tools
    need_postgres
    need_npm_for_engine
    if [ "$what" = test ]; then
        need_kafka_tools
        need_network_tools
        need_strace
        need_faketime
    fi
    install_packages
    install_engine
    [ "$what" = run ] || "$root/deploy/kafka/kafka.sh" fetch
    ;;
check)
    need_rust
    need_build_tools
    need_shellcheck
    install_packages
    ;;
*)
    die "usage: deps.sh run|test|check"
    ;;
esac
