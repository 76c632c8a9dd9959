# Sourced by the scripts of this folder: finds a Python, makes .venv and fills it from the lock files.
#
# All it counts on is a Debian machine with Python 3.11 and a network. Everything it says goes to standard error:
# standard output belongs to the program that a script runs in the end.
#
# Environment: PYTHON names the interpreter to make .venv with.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV="$PWD/.venv"
VENV_PYTHON="$VENV/bin/python"

say() { printf '%s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# The distribution's own comes first: it is built with profile-guided optimisation, and runs this project a tenth faster
# than one that was compiled without.
find_python() {
    local candidate first=
    for candidate in ${PYTHON:+"$PYTHON"} /usr/bin/python3 python3.11 python3.12 python3.13 python3; do
        if command -v "$candidate" >/dev/null && new_enough "$candidate"; then
            if bundled_pip "$candidate" >/dev/null; then
                echo "$candidate"
                return
            fi
            first=${first:-$candidate}
        fi
    done
    # One that cannot make environments yet; what it needs may be installed.
    [ -n "$first" ] ||
        die "Python 3.11 or newer is needed (on Debian: apt-get install python3 python3-venv); PYTHON=... names one."
    echo "$first"
}

# The pip that the interpreter carries for new environments, as a wheel. Run from there, it need not be installed
# first, which is what takes most of the time of an ordinary `python -m venv`.
bundled_pip() {
    "$1" - 2>/dev/null <<'PYTHON'
import ensurepip, glob, os, sysconfig
own = os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")
for folder in filter(None, (sysconfig.get_config_var("WHEEL_PKG_DIR"), own)):
    for wheel in glob.glob(os.path.join(folder, "pip-*.whl")):
        print(wheel)
        raise SystemExit
raise SystemExit(1)
PYTHON
}

find_pip() {
    bundled_pip "$1" && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing python3-venv..."
        export DEBIAN_FRONTEND=noninteractive
        { apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-venv; } \
            >/dev/null </dev/null || true # Their errors are on the terminal; what is missing is said below.
        bundled_pip "$1" && return
    fi
    die "$1 cannot make virtual environments. Install what is missing: sudo apt-get install python3-venv"
}

# make_venv runtime|dev: .venv with the locked packages and this project, editable. Costs nothing when they are there.
make_venv() {
    local kind=$1 locks=(requirements.lock deploy/locks/build.lock) python pip want
    if [ "$kind" = dev ]; then locks=(requirements-dev.lock); fi
    want=$(cat requirements.lock requirements-dev.lock deploy/locks/*.lock pyproject.toml | sha256sum | cut -d' ' -f1)
    if installed "$kind" "$want"; then return; fi
    exec {lock}>"$PWD/.venv.lock"
    flock "$lock" # Two scripts started at once fill one environment, one after the other.
    if ! installed "$kind" "$want"; then
        say "setting up .venv..."
        python=$(find_python)
        pip=$(find_pip "$python")
        new_enough "$VENV_PYTHON" || "$python" -m venv --clear --without-pip "$VENV"
        install_packages "$pip" "${locks[@]}"
        echo "$want" >"$VENV/.installed-$kind"
    fi
    exec {lock}>&-
}

# The development environment contains the runtime one.
installed() {
    [ -x "$VENV_PYTHON" ] || return 1
    local stamp
    for stamp in "$VENV/.installed-$1" "$VENV/.installed-dev"; do
        if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$2" ]; then return 0; fi
    done
    return 1
}

# install_packages PIP LOCK...: hash-checked wheels only. uv takes a second where pip takes ten; pip does it where uv
# cannot (a package index or a proxy that only pip is set up for).
install_packages() {
    local pip=("$VENV_PYTHON" "$1/pip" install --quiet --no-compile) checked=(--require-hashes --no-deps --only-binary :all:)
    local uv=("$VENV/bin/uv" pip install --quiet --python "$VENV_PYTHON") requirements=() lock
    shift
    for lock; do requirements+=(-r "$lock"); done
    export PIP_DISABLE_PIP_VERSION_CHECK=1 UV_PYTHON_DOWNLOADS=never
    if [ -n "${PIP_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"; fi
    if [ -n "${PIP_CERT:-}" ]; then export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"; fi
    "${pip[@]}" "${checked[@]}" -r deploy/locks/installer.lock >&2
    "${uv[@]}" "${checked[@]}" "${requirements[@]}" >&2 || "${pip[@]}" "${checked[@]}" "${requirements[@]}" >&2
    "${uv[@]}" --no-deps --no-build-isolation --editable . >&2
}

servers() { "$VENV_PYTHON" deploy/local/servers.py "$@"; }
