#!/bin/sh
# Sets this clone up: .venv with everything from requirements.lock, Horovod built for this machine, the project itself.
# `make run` and `make test` call it; a call with nothing to do ends at once. `--test` adds what only the tests want (a browser, an SSH server).
#
#   PYTHON=/path/to/python3     the interpreter for .venv (3.11 or newer); default: python3, or else the newest python3.x there is
#   ATELIER_WITHOUT_HOROVOD=1   leave Horovod out (no C++ compiler): several workers then train with torch.distributed
#   ATELIER_HOROVOD_GPU=1|0     insist on NCCL operations, or do without; default: NCCL where there is a GPU and a CUDA toolkit
set -eu
cd "$(dirname "$0")/.."

stop() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

say() {
    printf '%s\n' "$1" >&2
}

# All that .venv depends on: these files, this folder, and what Horovod was built for.
fingerprint() {
    {
        cat requirements.lock infra/bootstrap.lock pyproject.toml infra/setup.sh infra/with_uv.py infra/horovod/*.py infra/horovod/*.patch
        printf '%s|%s|%s|%s|' "$PWD" "${PYTHON:-}" "${ATELIER_WITHOUT_HOROVOD:-}" "${ATELIER_HOROVOD_GPU:-}"
        command -v nvcc nvidia-smi || true
    } | sha256sum | cut -d ' ' -f 1
}

good_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        good_python "$PYTHON" || stop "PYTHON=$PYTHON is not a Python of version 3.11 or newer."
        printf '%s\n' "$PYTHON"
        return
    fi
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if good_python "$name"; then
            printf '%s\n' "$name"
            return
        fi
    done
    found=$(python3 --version 2>&1 || true)
    stop "Python 3.11 or newer is needed; found: ${found:-none}.
Install one, for example: apt-get install python3.11 python3.11-venv python3.11-dev
or name one that is not on the PATH: PYTHON=/path/to/python3 make run"
}

make_venv() {
    python=$(choose_python)
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        stop "This Python $version cannot make virtual environments (module ensurepip is missing).
Install it with: apt-get install python$version-venv"
    say "Making .venv with Python $version ..."
    rm -rf .venv
    "$python" -m venv .venv || stop "$python -m venv .venv failed, see above."
}

install_lock() {
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        .venv/bin/python -m ensurepip --default-pip >/dev/null
    fi
    timeout 600 .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement infra/bootstrap.lock ||
        stop "uv could not be installed, see above. Check the network and pip's index settings (PIP_INDEX_URL, pip.conf), then run the same command again."
    say "Installing requirements.lock (about 7 GB; from uv's cache in seconds) ..."
    timeout 3600 .venv/bin/python -m infra.with_uv pip install --quiet --compile-bytecode --python .venv/bin/python --require-hashes --requirement requirements.lock ||
        stop "The packages of requirements.lock could not be installed, see above. What is done is kept: run the same command again.
No space left? df -h shows it; the environment and uv's cache need 16 GB if they lie on different disks, else 8 GB."
    timeout 600 .venv/bin/python -m infra.with_uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable . ||
        stop "The project itself could not be installed, see above."
}

install_horovod() {
    if [ "${ATELIER_WITHOUT_HOROVOD:-}" = 1 ]; then
        say "Leaving Horovod out, as ATELIER_WITHOUT_HOROVOD=1 says."
        .venv/bin/python -m infra.with_uv pip uninstall --quiet --python .venv/bin/python horovod 2>/dev/null || true
        return
    fi
    wheel=$(.venv/bin/python -m infra.horovod.build) || exit 1
    .venv/bin/python -m infra.with_uv pip install --quiet --python .venv/bin/python --no-deps --offline --reinstall-package horovod "$wheel" ||
        stop "Horovod's wheel could not be installed: $wheel. Delete it and run the same command again."
}

# Empty databases for Prefect and MLflow, migrated once and copied for each new workspace, save 15 s and 5 s there. Without them a first run
# makes them.
make_templates() {
    for part in prefect_server _registry_mlflow; do
        timeout 300 .venv/bin/python -m "infra.$part" >/dev/null ||
            say "An empty database could not be made beforehand (infra.$part), see above; the first run tries again."
    done
}

# The pages that Atelier writes are looked at in a browser by some tests; without one these tests are skipped, with the reason.
install_browser() {
    for name in chromium chromium-browser google-chrome; do
        if command -v "$name" >/dev/null; then return; fi
    done
    if [ -e .venv/.browser-tried ]; then return; fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then return; fi
    say "Installing chromium for the tests of pages ..."
    log=.venv/.browser-tried
    apt="timeout 240 apt-get -qq -y -o Acquire::Retries=0 -o Acquire::http::Timeout=15 -o Acquire::https::Timeout=15"
    if DEBIAN_FRONTEND=noninteractive $apt install --no-install-recommends chromium >"$log.part" 2>&1 ||
        { $apt update >>"$log.part" 2>&1 && DEBIAN_FRONTEND=noninteractive $apt install --no-install-recommends chromium >>"$log.part" 2>&1; }; then
        say "Chromium is installed."
    else
        say "Chromium could not be installed (see $log); the tests that look at pages in a browser are skipped."
    fi
    mv "$log.part" "$log"
}

# Workers by SSH are tested against a real server, which is unpacked below .venv and not installed; without one these tests are skipped.
unpack_sshd() {
    if [ -e .venv/.sshd-tried ] || [ -x /usr/sbin/sshd ] || ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then return; fi
    say "Unpacking an OpenSSH server for the tests of SSH ..."
    mkdir -p .venv/sshd
    (
        cd .venv/sshd
        for package in openssh-server libwrap0; do
            timeout 60 apt-get -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=15 download "$package" && dpkg -x "$package"_*.deb .
            rm -f "$package"_*.deb
        done
    ) >.venv/.sshd-tried 2>&1 || true
    if [ ! -x .venv/sshd/usr/sbin/sshd ]; then say "There is none (see .venv/.sshd-tried); the tests of SSH with a server are skipped."; fi
}

# A .venv is kept if it works, was made in this folder (its scripts name it), and has the version that PYTHON asks for, if it does.
venv_is_usable() {
    good_python .venv/bin/python && grep -qF "$PWD/.venv" .venv/bin/activate 2>/dev/null || return 1
    [ -z "${PYTHON:-}" ] || [ "$(.venv/bin/python -V)" = "$("$PYTHON" -V)" ]
}

set_up() {
    [ "$(uname -s)" = Linux ] || stop "Atelier runs on Linux; this is $(uname -s)."
    exec 9>.venv.lock
    if command -v flock >/dev/null && ! flock -n 9; then
        say "Another set-up runs in this folder; waiting for it ..."
        flock 9
        if up_to_date; then return; fi
    fi
    rm -f .venv/.set-up
    venv_is_usable || make_venv
    install_lock
    install_horovod
    make_templates
    printf '%s\n' "$(fingerprint)" >.venv/.set-up.part
    mv .venv/.set-up.part .venv/.set-up
    say "Set-up done."
}

up_to_date() {
    [ -x .venv/bin/python ] && [ -f .venv/.set-up ] && [ "$(cat .venv/.set-up)" = "$(fingerprint)" ]
}

up_to_date || set_up
if [ "${1:-}" = --test ]; then
    install_browser
    unpack_sshd
fi
