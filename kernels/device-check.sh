#!/usr/bin/env bash
# Checks and times the CUDA kernels on a device, and the encoders and language models that run on them, from programs that
# are built where there is none.
#
#   kernels/device-check.sh build FOLDER    tests and timings, and the run-time compiler if a wheel of it was unpacked
#   kernels/device-check.sh run FOLDER      on the machine with the device: every test, then the tables of figures, beside
#                                           PyTorch where `python3` has it
#   kernels/device-check.sh emulate         the same tests on the processor, and all kernels through the compiler
#
# FOLDER holds all that `run` needs, which writes there too, what is printed into FOLDER/log or $OUT. Programs are packed,
# to be carried. The wheel of the compiler lies in nvrtc-VERSION of the target folder, where `.ci/run` unpacks it. libnvrtc
# and libcublasLt are looked for in FOLDER/lib, in the toolkit's folder, in the Python packages of NVIDIA, then where the
# system finds libraries; without the second, products run on a kernel of ours. Compiled kernels are kept in FOLDER/kernels.
set -euo pipefail

case ${1-} in
build)
    folder=${2:?a folder}
    mkdir -p "$folder/lib"
    folder=$(cd "$folder" && pwd)
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    mkdir -p "$folder/programs"
    # The programs' paths, as cargo tells them: those of the tests, the one of the timings.
    {
        cargo build --release --locked --package raglan-kernels --features cuda --lib --tests --bench device \
            --message-format json
        cargo build --release --locked --package raglan-model --package raglan-embed --package raglan-generate \
            --package raglan-rerank --features raglan-embed/emulation,raglan-generate/emulation,raglan-rerank/emulation \
            --test model --test encoders --test generation --test judges --bench device_encoders \
            --bench device_first_token --message-format json
    } |
        python3 -c '
import json, shutil, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] in (
        "raglan_kernels", "device", "model", "encoders", "generation", "judges", "device_encoders", "device_first_token"
    ):
        shutil.copy(message["executable"], sys.argv[1] + "/" + message["target"]["name"])
' "$folder/programs"
    # What is to be carried there is small without symbols.
    ! command -v strip >/dev/null || strip "$folder"/programs/*
    tar -C "$folder" -czf "$folder/programs.tar.gz" programs
    rm -r "$folder/programs"
    cp kernels/device-check.sh kernels/device-peer.py "$folder"
    target=$(cargo metadata --no-deps --format-version 1 |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
    for library in "$target"/nvrtc-*/nvidia/cuda_nvrtc/lib/*.so*; do
        case $library in *.alt.*) continue ;; esac
        [ ! -e "$library" ] || cp "$library" "$folder/lib"
    done
    [ -n "$(ls "$folder/lib")" ] || echo "no wheel of libnvrtc was unpacked: it must be on the machine with the device" >&2
    ls "$folder"
    ;;
run)
    folder=$(cd "${2:?a folder}" && pwd)
    [ -e "$folder/programs.tar.gz" ] || { echo "$folder: nothing was built there" >&2; exit 2; }
    tar -C "$folder" -xzf "$folder/programs.tar.gz"
    programs=$folder/programs log=${OUT:-$folder/log} links=$folder/links
    mkdir -p "$log" "$links"
    of_python=$(python3 -c '
import glob, nvidia
print("\n".join(place for path in nvidia.__path__ for place in glob.glob(path + "/*/lib") + glob.glob(path + "/*/*/lib")))
' 2>/dev/null || true)
    mapfile -t places < <(printf '%s\n' "$folder/lib" "${CUDA_HOME:-/usr/local/cuda}/lib64" $of_python)
    # Programs look for few versions by name, and for the name without one first.
    for library in libnvrtc libcublasLt; do
        found=
        for place in "${places[@]}"; do
            found=$(ls -1 "$place/$library".so* 2>/dev/null | grep -v '[.]alt[.]' | sort -V | tail -n 1 || true)
            [ -z "$found" ] || break
        done
        [ -z "$found" ] || ln -sfn "$found" "$links/$library.so"
        echo "$library: ${found:-where the system finds it, if it does}"
    done
    ours=$links:$(IFS=:; echo "${places[*]}")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export RAGLAN_CUDA=1 RAGLAN_CUDA_KERNELS=$folder/kernels
    failed=() passed=()
    # Runs a program, for so long at most; a filter of tests that no test matches is a failure too.
    check() {
        local name=$1 output status=0
        shift
        output="$log/${name//[ ,]/-}.txt"
        timeout 240 "$@" 2>&1 | tee "$output" || status=$?
        ! grep -q '^running 0 tests$' "$output" || { echo "$name: no test has such a name"; status=1; }
        [ "$status" -eq 0 ] && passed+=("$name") || failed+=("$name")
    }
    by_ours() { check "$1" env LD_LIBRARY_PATH="$ours" "${@:2}"; }
    by_ours 'tests of kernels' "$programs/raglan_kernels" cuda split::
    # A row of a product by our own kernel is the same to the bit among however many, which these tests look at.
    export RAGLAN_CUDA_LIBRARY=none
    by_ours 'tests of kernels without the library' "$programs/raglan_kernels" cuda split::
    by_ours 'tests of models' "$programs/model" device::
    by_ours 'tests of encoders' "$programs/encoders" on_device::
    by_ours 'tests of generation' "$programs/generation" device::
    by_ours 'tests of judges' "$programs/judges" on_device::
    unset RAGLAN_CUDA_LIBRARY
    by_ours 'figures of kernels' "$programs/device"
    # By turns, so that both have the same machine.
    for turn in 1 2; do
        by_ours "figures of encoders, $turn" "$programs/device_encoders" "$folder"
        if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
            check "figures of PyTorch, $turn" python3 "$folder/device-peer.py" "$folder/lengths.txt"
        else
            echo 'skipped: python3 has no PyTorch with a device'
        fi
    done
    by_ours 'figures of first tokens' "$programs/device_first_token"
    [ ${#passed[@]} -eq 0 ] || printf '== passed: %s\n' "${passed[@]}"
    [ ${#failed[@]} -eq 0 ] || { printf '== FAILED: %s\n' "${failed[@]}" && exit 1; }
    ;;
emulate)
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    cargo test --locked --package raglan-kernels --features cuda --lib -- cuda split::
    cargo test --locked --package raglan-model --package raglan-embed --package raglan-generate --package raglan-rerank \
        --features raglan-embed/emulation,raglan-generate/emulation,raglan-rerank/emulation --test model --test encoders \
        --test generation --test judges device::
    ;;
*)
    sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
