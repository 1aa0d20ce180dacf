#!/usr/bin/env bash
# Checks and times the CUDA kernels on a device, and the encoders and language models that run on them, from programs that
# are built where there is none.
#
#   kernels/device-check.sh build FOLDER    tests and timings, and the run-time compiler if a wheel of it was unpacked
#   kernels/device-check.sh run FOLDER      on the machine with the device: every test, then the tables of figures, beside
#                                           PyTorch where `python3` has it
#   kernels/device-check.sh emulate         the same tests on the processor, and all kernels through the compiler
#
# FOLDER holds all that `run` needs, which writes there too. The wheel of the compiler lies in nvrtc-VERSION of the target
# folder, where `.ci/run` unpacks it. libnvrtc is looked for in FOLDER/lib, in the toolkit's folder, then where the system
# finds libraries, and so is libcublasLt, without which products run on a kernel of ours. Compiled kernels are kept in
# FOLDER/kernels.
set -euo pipefail

case ${1-} in
build)
    folder=${2:?a folder}
    mkdir -p "$folder/lib"
    folder=$(cd "$folder" && pwd)
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
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
' "$folder"
    # What is to be carried there is small without symbols.
    ! command -v strip >/dev/null || find "$folder" -maxdepth 1 -type f -perm -u+x ! -name '*.sh' -exec strip {} +
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
    [ -x "$folder/raglan_kernels" ] || { echo "$folder: nothing was built there" >&2; exit 2; }
    export LD_LIBRARY_PATH=$folder/lib:${CUDA_HOME:-/usr/local/cuda}/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export RAGLAN_CUDA=1 RAGLAN_CUDA_KERNELS=$folder/kernels
    failed=() passed=()
    # Runs a program; a filter of tests that no test matches is a failure too.
    check() {
        local name=$1 output status=0
        shift
        output=$(mktemp)
        "$@" 2>&1 | tee "$output" || status=$?
        ! grep -q '^running 0 tests$' "$output" || { echo "$name: no test has such a name"; status=1; }
        rm "$output"
        [ "$status" -eq 0 ] && passed+=("$name") || failed+=("$name")
    }
    check 'tests of kernels' "$folder/raglan_kernels" cuda
    check 'tests of models' "$folder/model" device::
    check 'tests of encoders' "$folder/encoders" on_device::
    check 'tests of generation' "$folder/generation" device::
    check 'tests of judges' "$folder/judges" device::
    check 'figures of kernels' "$folder/device"
    # By turns, so that both have the same machine.
    for turn in 1 2; do
        check "figures of encoders, $turn" "$folder/device_encoders" "$folder"
        if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
            check "figures of PyTorch, $turn" python3 "$folder/device-peer.py" "$folder/lengths.txt"
        else
            echo 'skipped: python3 has no PyTorch with a device'
        fi
    done
    check 'figures of first tokens' "$folder/device_first_token"
    [ ${#passed[@]} -eq 0 ] || printf '== passed: %s\n' "${passed[@]}"
    [ ${#failed[@]} -eq 0 ] || { printf '== FAILED: %s\n' "${failed[@]}" && exit 1; }
    ;;
emulate)
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    cargo test --locked --package raglan-kernels --features cuda --lib cuda
    cargo test --locked --package raglan-model --package raglan-embed --package raglan-generate --package raglan-rerank \
        --features raglan-embed/emulation,raglan-generate/emulation,raglan-rerank/emulation --test model --test encoders \
        --test generation --test judges device::
    ;;
*)
    sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
