#!/usr/bin/env bash
# Builds Kubernetes from its Go module, once, into a cache folder that is keyed
# by the version: kube-apiserver, kube-controller-manager, kube-scheduler,
# kubelet and kubectl. Prints the folder. A build that was stopped goes on where
# it was: each program that is there is whole.
#
#   tools/kubernetes.sh          build what is missing
#   tools/kubernetes.sh where    print the folder alone
set -euo pipefail
version=v1.36.3
cache=${ICP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/icp}
out=$cache/kubernetes-$version
if [ "${1:-}" = where ]; then
	echo "$out"
	exit
fi
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl)
missing=()
for program in "${programs[@]}"; do [ -x "$out/$program" ] || missing+=("$program"); done
if [ ${#missing[@]} = 0 ]; then
	echo "$out"
	exit
fi
mkdir -p "$out/module"
exec 9>"$out/lock"
flock 9 # two clones may share the cache
cd "$out/module"

# Kubernetes' module names its own parts v0.0.0 and replaces them by folders of
# its repository; outside of it they are modules of the same release.
export GOFLAGS=-mod=mod
go mod download "k8s.io/kubernetes@$version"
theirs=$(go env GOMODCACHE)/cache/download/k8s.io/kubernetes/@v/$version.mod
parts=$(sed -nE 's|^\s*(k8s\.io/[a-z-]+) => \./staging/.*|\1|p' "$theirs")
[ -n "$parts" ] || { echo "kubernetes: no parts are named in $theirs" >&2; exit 1; }
{
	echo "module kubernetes.build"
	grep -E '^go ' "$theirs"
	grep -E '^godebug' "$theirs" || true
	echo "require k8s.io/kubernetes $version"
	for part in $parts; do echo "replace $part => $part v0.${version#v1.}"; done
	for program in "${programs[@]}"; do echo "tool k8s.io/kubernetes/cmd/$program"; done
} >go.mod
go mod tidy -e >/dev/null 2>&1 || true # 'tool' lines need their sums

# A program whose gitVersion is no version stops at its start.
stamp=k8s.io/component-base/version
flags="-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=$(cut -d. -f2 <<<"$version") -X $stamp.gitTreeState=clean"
for program in "${missing[@]}"; do
	[ -x "$out/$program" ] && continue
	echo "kubernetes: building $program $version (all of them take about ten minutes, once)" >&2
	CGO_ENABLED=0 nice go build -p 2 -trimpath -buildvcs=false -ldflags "$flags" -o "$out/$program.part" "k8s.io/kubernetes/cmd/$program"
	mv "$out/$program.part" "$out/$program"
done
echo "$out"
