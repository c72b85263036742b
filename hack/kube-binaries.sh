#!/usr/bin/env bash
# Makes sure that a folder with etcd, kube-apiserver, kube-controller-manager and kubectl exists, and prints its path
# and nothing else on stdout. Progress is printed to stderr. It tries, in this order:
#   1. KUBEBUILDER_ASSETS, if it is set;
#   2. the cache folder that an earlier run filled;
#   3. the publishers' binaries, with verified checksums: needs internet, takes about a minute;
#   4. a build of Debian's own source package: needs only apt, takes some minutes.
set -euo pipefail
exec 3>&1 1>&2

official=1.36.2
declare -A official_sha512=( # in base64, as published
    [amd64]='6nQxhsinmfXPj68Wlp+GGJ0APLfRMOCsS1h4nx5XSNzzDr6RyDehDVrEFTg9o+ELnmTWV4XJOMI+c5eBz7dvCA=='
    [arm64]='LXLumFqOJio8V9yffw/Ykfaox79+uqLbbcbY6siuKBga/lHB82i2d1bNtAsQ3psgVgnhcm5fJ/fG2CTdnGZJrA=='
)
debian=1.20.2
debian_source='1.20.5+really1.20.2-'
build_tools=(curl dpkg-dev golang-go jq make openssl rsync)

cache=${XDG_CACHE_HOME:-$HOME/.cache}/astro-token-operator/kube
log=$cache/log

main() {
    [[ -z ${KUBEBUILDER_ASSETS:-} ]] || use_assets
    use_cache
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock --nonblock 9 || { say "another run is filling $cache: waiting for it" && flock 9; }
    use_cache

    rm -rf "$cache"/work.*
    work=$(mktemp -d "$cache/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    : >"$log"
    say "no Kubernetes binaries yet; details of what follows are in $log"
    if download && check "$work/downloaded"; then
        install_as "$official" "$work/downloaded"
    fi
    build
    check "$work/built" || die "the binaries that were built do not work. $way_out"
    install_as "$debian" "$work/built"
}

use_assets() {
    local lacking=() program
    for program in etcd kube-apiserver; do
        [[ -x $KUBEBUILDER_ASSETS/$program ]] || lacking+=("$program")
    done
    [[ ${#lacking[@]} -eq 0 ]] || die "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS lacks ${lacking[*]}." \
        "Complete that folder, or unset the variable and this script fills one."
    [[ -x $KUBEBUILDER_ASSETS/kube-controller-manager ]] ||
        say "KUBEBUILDER_ASSETS lacks kube-controller-manager: continuing without namespace deletion and quotas"
    print_folder "$KUBEBUILDER_ASSETS"
}

use_cache() {
    local version
    for version in "$official" "$debian"; do
        [[ ! -e $cache/$version/checked ]] || print_folder "$cache/$version"
    done
}

download() {
    local into=$work/downloaded arch archive url
    case $(uname -sm) in
        'Linux x86_64') arch=amd64 ;;
        'Linux aarch64') arch=arm64 ;;
        *) say "no binaries are pinned for $(uname -sm)" && return 1 ;;
    esac
    archive=envtest-v$official-linux-$arch.tar.gz
    mkdir "$into"
    say "trying to fetch Kubernetes $official from its publishers (about 200 MB)"
    fetch "https://github.com/kubernetes-sigs/controller-tools/releases/download/envtest-v$official/$archive" \
        "$work/$archive" || return 1
    echo "$(base64 -d <<<"${official_sha512[$arch]}" | od -An -v -tx1 | tr -d ' \n')  $work/$archive" |
        logged sha512sum --check || return 1
    logged tar -xzf "$work/$archive" -C "$into" --strip-components=2 || return 1
    url=https://dl.k8s.io/v$official/bin/linux/$arch/kube-controller-manager
    fetch "$url" "$into/kube-controller-manager" || return 1
    fetch "$url.sha256" "$work/sha256" || return 1
    echo "$(<"$work/sha256")  $into/kube-controller-manager" | logged sha256sum --check || return 1
    chmod +x "$into/kube-controller-manager"
}

fetch() {
    curl --fail --silent --show-error --location --connect-timeout 5 --speed-limit 1000 --speed-time 20 \
        --output "$2" "$1" && return
    say "it cannot be fetched from here"
    return 1
}

build() {
    command -v apt-get >/dev/null || die "there is no apt to build Kubernetes $debian with. $way_out"
    local into=$work/built root=()
    [[ $EUID -eq 0 ]] || root=(sudo -n)
    say "building Kubernetes $debian from Debian's source: about six minutes on two cores, 3 GB of disk"
    export DEBIAN_FRONTEND=noninteractive
    use_own_apt
    say "reading the package lists"
    logged apt-get "${apt[@]}" update || say "continuing with the lists that could be read"
    apt-cache "${apt[@]}" showsrc kubernetes 2>>"$log" | grep -F "Version: $debian_source" >>"$log" ||
        die "apt offers no source package of Kubernetes $debian here (Debian 12 does). $way_out"
    if ! dpkg --status "${build_tools[@]}" >>"$log" 2>&1; then
        say "installing ${build_tools[*]}"
        logged "${root[@]}" apt-get "${apt[@]}" install -y --no-install-recommends "${build_tools[@]}" ||
            die "the build tools cannot be installed. $way_out"
    fi

    say "unpacking the source"
    mkdir "$work/source" "$into"
    cd "$work/source"
    logged apt-get "${apt[@]}" source kubernetes || die "the source cannot be downloaded. $way_out"
    # Only unpacked, not installed: the package would start a service.
    logged apt-get "${apt[@]}" download etcd-server golang-github-modern-go-reflect2-dev ||
        die "etcd cannot be downloaded. $way_out"
    logged dpkg-deb -x etcd-server_*.deb debian
    logged dpkg-deb -x golang-github-modern-go-reflect2-dev_*.deb debian
    cp debian/usr/bin/etcd "$into"

    cd kubernetes-*/
    # The vendored release makes the API server crash at the first custom resource if it is built with Go 1.18 or
    # newer.
    rm -rf vendor/github.com/modern-go/reflect2
    cp -r ../debian/usr/share/gocode/src/github.com/modern-go/reflect2 vendor/github.com/modern-go/
    printf '%s\n' KUBE_GIT_COMMIT=unknown KUBE_GIT_TREE_STATE=archive "KUBE_GIT_VERSION=v$debian" \
        KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20 >"$work/version"
    mkdir -p .go/src/k8s.io
    ln -s ../../.. .go/src/k8s.io/kubernetes
    say "compiling (since $(date +%T))"
    logged env GOPATH="$PWD/.go" GO111MODULE=off GOFLAGS=-mod=vendor CGO_ENABLED=0 HOME="$work" \
        KUBE_GIT_VERSION_FILE="$work/version" \
        make WHAT='cmd/kube-apiserver cmd/kube-controller-manager cmd/kubectl' || die "the build failed. $way_out"
    cp _output/bin/{kube-apiserver,kube-controller-manager,kubectl} "$into"
    cd "$cache"
}

# Sets `apt`: options that make apt read this machine's own sources, including source packages, and leave nothing
# behind.
use_own_apt() {
    local own=$work/apt file
    mkdir -p "$own"/{sources,lists/partial,cache/archives/partial}
    for file in /etc/apt/sources.list.d/*.sources; do
        [[ ! -e $file ]] || sed 's/^Types:.*/Types: deb deb-src/' "$file" >"$own/sources/${file##*/}"
    done
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [[ ! -e $file ]] || sed -n 's/^deb\([[:space:]].*\)/deb\1\ndeb-src\1/p' "$file" \
            >"$own/sources/$(basename "$file" .list).list"
    done
    apt=(
        -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$own/sources"
        -o "Dir::State::lists=$own/lists" -o "Dir::Cache=$own/cache" -o DPkg::Lock::Timeout=600
        # apt's own user is not allowed to enter a home directory.
        -o APT::Sandbox::User=root
    )
}

# Starts the binaries in a folder and creates one custom resource, which makes a wrongly built kube-apiserver crash.
check() (
    bin=$1 dir=$work/check
    etcd=http://127.0.0.1:$(free_port)
    port=$(free_port)
    say "checking the binaries with one custom resource"
    rm -rf "$dir" && mkdir "$dir"
    echo "check,check,check,system:masters" >"$dir/tokens"
    logged openssl genrsa -out "$dir/key" 2048 || return 1
    trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
    "$bin/etcd" --data-dir "$dir/etcd" --unsafe-no-fsync --logger zap --log-level error \
        --listen-peer-urls http://127.0.0.1:0 \
        --listen-client-urls "$etcd" --advertise-client-urls "$etcd" >>"$log" 2>&1 9>&- &
    "$bin/kube-apiserver" --etcd-servers "$etcd" --bind-address 127.0.0.1 --advertise-address 127.0.0.1 \
        --secure-port "$port" --cert-dir "$dir" --token-auth-file "$dir/tokens" --authorization-mode RBAC \
        --service-cluster-ip-range 10.0.0.0/24 --service-account-issuer https://localhost \
        --service-account-key-file "$dir/key" --service-account-signing-key-file "$dir/key" >>"$log" 2>&1 9>&- &

    await ask readyz || return 1
    logged ask apis/apiextensions.k8s.io/v1/customresourcedefinitions '{
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "checks.example.com"},
        "spec": {
            "group": "example.com", "scope": "Cluster", "names": {"kind": "Check", "plural": "checks"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}}' || return 1
    await ask apis/example.com/v1/checks || return 1
    logged ask apis/example.com/v1/checks \
        '{"apiVersion": "example.com/v1", "kind": "Check", "metadata": {"name": "one"}}' || return 1
    logged ask apis/example.com/v1/checks/one
)

# One request to the API server under check: a GET of a path, or a POST of a body to it.
ask() {
    local body=()
    [[ $# -eq 1 ]] || body=(--header 'Content-Type: application/json' --data "$2")
    curl --fail --silent --show-error --insecure --max-time 30 --header 'Authorization: Bearer check' "${body[@]}" \
        "https://127.0.0.1:$port/$1"
}

# Runs a command until it succeeds, for two minutes at most and only while both servers under check are running.
await() {
    local end=$((SECONDS + 120))
    until "$@" >/dev/null 2>&1; do
        [[ $SECONDS -lt $end && $(jobs -pr | wc -l) -eq 2 ]] || say_log_end "$*" || return 1
        sleep 0.5
    done
}

free_port() {
    local port
    while port=$((20000 + RANDOM % 12000)) && (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

install_as() {
    touch "$2/checked"
    rm -rf "${cache:?}/$1"
    mv "$2" "$cache/$1"
    say "ready: $cache/$1"
    print_folder "$cache/$1"
}

print_folder() {
    echo "$1" >&3
    exit 0
}

# Runs a command with its output in the log, and shows the end of the log if it fails.
logged() {
    echo "+ $*" >>"$log"
    "$@" >>"$log" 2>&1 || say_log_end "$1"
}

say_log_end() {
    say "${1:-this} failed; $log ends with:"
    tail -n 15 "$log" | cut -c -300 | sed 's/^/    /'
    return 1
}

say() { echo "kube-binaries: $*"; }

die() {
    say "$*"
    exit 1
}

way_out="Set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver and kube-controller-manager of one version\
 (setup-envtest makes one) and run this again."

main
