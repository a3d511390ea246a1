#!/usr/bin/env bash
# Installs what Millrace lacks on a Debian machine that has Rust. Does nothing, at once, where nothing lacks.
#
#   deps.sh run      to build Millrace and run it on one machine
#   deps.sh test     the same, and what the tests start: a Kafka broker, browsers, other products' clients, proxies
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

# Other products' clients and the snippet's shop run in them.
need_browser() {
    have node && have npm || packages+=(nodejs npm)
    have chromium || packages+=(chromium)
}

# OpenAPI documents are compared with answers by a program in Python.
need_python() {
    { have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; } || packages+=(python3 python3-venv)
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

# Every folder pins what it needs; installed again only when its lock file has changed.
install_clients() {
    local folder
    for folder in "$root"/collector/tracker/ "$root"/deploy/runner/tests/browser/ "$root"/deploy/runner/tests/clients/*/; do
        ! cmp -s "$folder/package-lock.json" "$folder/node_modules/.installed" || continue
        say "npm ci in ${folder#"$root"/}"
        (cd "$folder" && npm ci --ignore-scripts --no-audit --no-fund >"$tools/npm.log" 2>&1) ||
            die "npm ci failed in $folder: $(grep -m1 -i 'error' "$tools/npm.log" || echo 'no reason given')"
        cp "$folder/package-lock.json" "$folder/node_modules/.installed"
    done
    install_umami_tracker
}

# Umami's tracker is published within its whole server, of whose hundreds of dependencies it needs none.
umami_version=2.10.0
umami_sha512='+lmrnV0751R6U2rkIgVAlE1nWI7yZawlMlJDguW9tlFacCKhnGeCyc7tCMIhNNYIiGIQy4DEX5IzJhm4b3+dPA=='

install_umami_tracker() {
    local folder=$root/deploy/runner/tests/clients/umami/node_modules/umami package
    [ ! -e "$folder/src/tracker/index.js" ] || return 0
    mkdir -p "$folder"
    package=$(cd "$folder" && npm pack --silent "umami@$umami_version" 2>npm.log) ||
        die "npm could not download umami $umami_version: $(grep -m1 -i 'error' "$folder/npm.log" || echo 'no reason given')"
    echo "$(base64 -d <<<"$umami_sha512" | od -An -v -tx1 | tr -d ' \n')  $folder/$package" |
        sha512sum --check --status || die "$package is not the file whose hash is pinned in $0"
    tar -xzf "$folder/$package" -C "$folder" --strip-components=1 package/src/tracker/index.js
    rm -f "$folder/$package" "$folder/npm.log"
}

# Unpacked rather than installed, so that no service comes with them: the tests start them themselves. The libraries that
# they need belong to every Debian system.
install_proxies() {
    local unpacked=$tools/proxies scratch=$tools/proxies.new package
    [ ! -d "$unpacked" ] || return 0
    ! { have nginx && have caddy; } || return 0
    have apt-get || die "missing: nginx caddy (names as in Debian); install them, then run this again"
    say "downloading nginx and Caddy"
    rm -rf "$scratch"
    mkdir -p "$scratch"
    if ! (cd "$scratch" && apt-get download -qq nginx caddy >"$tools/apt.log" 2>&1); then
        [ "$(id -u)" -eq 0 ] || as_root=(sudo)
        "${as_root[@]}" apt-get update -qq || say "apt-get update failed; trying with the package lists that are here"
        (cd "$scratch" && apt-get download -qq nginx caddy >"$tools/apt.log" 2>&1) ||
            die "apt could not download nginx and caddy ($(grep -m1 '^E:' "$tools/apt.log" || tail -n 1 "$tools/apt.log"))"
    fi
    for package in "$scratch"/*.deb; do
        dpkg-deb -x "$package" "$scratch"
        rm "$package"
    done
    mv "$scratch" "$unpacked"
}

# Every package with the hash that is pinned; made again when the list has changed.
install_schemathesis() {
    local list=$root/deploy/runner/tests/openapi/requirements.txt place=$tools/schemathesis
    ! cmp -s "$list" "$place/.installed" || return 0
    say "installing schemathesis"
    rm -rf "$place"
    python3 -m venv "$place" >"$tools/pip.log" 2>&1 ||
        die "python3 cannot make a virtual environment: $(tail -n 1 "$tools/pip.log")"
    "$place/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
        -r "$list" >"$tools/pip.log" 2>&1 ||
        die "pip could not install what $list pins: $(grep -m1 -i 'error' "$tools/pip.log" || echo 'no reason given')"
    cp "$list" "$place/.installed"
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
        need_browser
        need_python
    fi
    install_packages
    install_engine
    if [ "$what" = test ]; then
        "$root/deploy/kafka/kafka.sh" fetch
        install_clients
        install_proxies
        install_schemathesis
    fi
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
