#!/bin/sh
# The first minutes on a card, in three calls that each end within their own limit (235, 300 and 240 seconds):
#
#   benches/gpu/first.sh 1     are vectors right, whatever batch they come in? Only then: speed of two small shapes, peers
#   benches/gpu/first.sh 2     speed of the 4B and 8B shapes, peers, and where the time of a layer goes
#   benches/gpu/first.sh 3     out of memory, and a run under compute-sanitizer
#   SMOKE=1 benches/gpu/first.sh 1     the same steps on the processor with a tiny shape
#
# It needs the `gpu` bench, packed by `make gpu-pack`, and a python3 that has torch, transformers and sentence-transformers
# (without them the peers are skipped): random weights, synthetic ids, no network. What each step prints is a JSON file in OUT;
# what it said on the way is beside it. Nothing of a call is measured where its vectors are wrong: the exit code is 1 then.
#
# OUT    where results go (a new folder)        BENCH   the built bench (.cache/gpu/gpu.xz; with SMOKE it is built)
# COUNT  sequences of each set (2048)           PYTHON  of the peers (python3)
# KINDS  arithmetics whose batches are compared (all three)
# PACKED a file outside OUT that gets the results at the end, as tar.gz, however the call ends: where few files come back
set -u
cd "$(dirname "$0")/../.."
call=${1:?1, 2 or 3}
case $call in
1) limit=235 ;;
2) limit=300 ;;
3) limit=240 ;;
*) echo "error: call $call is none of 1, 2, 3" >&2; exit 2 ;;
esac
begun=$(date +%s)
# What is not foreseen: collecting results, killing a step that does not end.
end=$((begun + limit - 5))
out=${OUT:-$(mktemp -d)} python=${PYTHON:-python3} count=${COUNT:-2048}
mkdir -p "$out"
work=$(mktemp -d)
ended() {
    if [ -n "${PACKED:-}" ]; then tar -czf "$PACKED" --exclude '*.ids.json' -C "$out" .; fi
    rm -rf "$work"
}
trap ended EXIT
if [ "${SMOKE:-}" = 1 ]; then
    device=tensors torch_device=cpu dtype=float32 count=${COUNT:-48} small="tiny" few="tiny" large="tiny"
    kinds=${KINDS:-f32 f16} budgets=1024,4096 batches=4,16 main=f32 beside=6 mixed=18 pack=512
else
    device=${DEVICE:-cuda:0} torch_device=${DEVICE:-cuda:0} dtype=bfloat16 small="smollm2 qwen3-0.6b" few="smollm2 qwen3-0.6b"
    large="qwen3-8b qwen3-4b" kinds=${KINDS:-bf16 f16 f32} budgets=4096,65536 batches=64,256 main=bf16
    beside=16 mixed=48 pack=1024
fi

bench=${BENCH:-}
if [ -z "$bench" ] && [ "${SMOKE:-}" = 1 ]; then
    cargo build --quiet --release --bench gpu || exit 1
    bench=$(cargo build --quiet --release --bench gpu --message-format json |
        sed -n 's/.*"executable":"\([^"]*gpu-[^"]*\)".*/\1/p')
fi
bench=${bench:-.cache/gpu/gpu.xz}
case $bench in
*.xz)
    "$python" -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), open(sys.argv[2], "wb"))' "$bench" "$work/gpu" || exit 1
    chmod +x "$work/gpu"
    bench=$work/gpu
    ;;
esac
# CUDA's libraries as PyTorch's wheels have them.
libraries=$("$python" -c 'import glob, site
folders = site.getsitepackages() + [site.getusersitepackages()]
print(":".join(sorted({path.rsplit("/", 1)[0] for folder in folders for path in glob.glob(folder + "/nvidia/*/lib/lib*.so.1[03]")})))' 2>/dev/null)
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries" CUDA_CACHE_PATH="$work/kernels"
mkdir "$CUDA_CACHE_PATH"

left() { echo $((end - $(date +%s))); }
# step NAME SECONDS COMMAND...: what it prints is OUT/NAME.json; 1 where it failed, 0 where there was no time for it.
step() {
    name=$1 own=$2
    shift 2
    rest=$(left)
    [ "$rest" -lt "$own" ] && own=$rest
    mkdir -p "$(dirname "$out/$name")"
    if [ "$own" -lt 5 ]; then
        echo "{\"skipped\": \"no time left\"}" > "$out/$name.skipped.json"
        echo "$name: no time left"
        return 0
    fi
    from=$(date +%s)
    STEP_SECONDS=$own timeout -k 3 "$own" "$@" > "$work/said" 2> "$out/$name.log"
    code=$?
    seconds=$(($(date +%s) - from))
    if [ -s "$work/said" ]; then mv "$work/said" "$out/$name.json"; fi
    if [ $code -ne 0 ]; then
        echo "{\"step\": \"$name\", \"code\": $code, \"seconds\": $seconds, \"limit\": $own}" > "$out/$name.failed.json"
        tail -3 "$out/$name.log"
    fi
    echo "$name: code $code, $seconds s of $own"
    [ $code -eq 0 ]
}
# What must hold before anything is measured.
must() {
    step "$@" || { echo "stopped: $1 failed; results in $out" >&2; exit 1; }
}
peers() { # shape
    for one in transformers st; do
        step "$1/$one" "$2" "$python" benches/gpu_peers.py $one "$out/$1" --shape "$1" --device "$torch_device" --dtype $dtype --batch $batches
    done
}
have_peers=0
"$python" -c 'import torch, transformers, sentence_transformers' 2> /dev/null && have_peers=1
[ $have_peers = 1 ] || echo "the peers are skipped: $python has no torch, transformers and sentence-transformers"

case $call in
1)
    for shape in $few; do
        # The first one also compiles candle's kernels for the card.
        must "$shape.parity" 90 "$bench" parity "$work" --shape "$shape" --layers 6 --device "$device" --count $beside
        for kind in $kinds; do
            must "$shape.$kind.invariance" 30 "$bench" invariance "$work" --shape "$shape" --layers 6 --device "$device" \
                --arithmetic "$kind" --count $mixed --budgets $pack
        done
    done
    [ $have_peers = 1 ] && step ceiling 20 "$python" benches/gpu_peers.py ceiling --device "$torch_device" --dtype $dtype
    for shape in $small; do
        mkdir -p "$out/$shape"
        step "$shape/ours" 40 "$bench" speed "$out/$shape" --shape "$shape" --device "$device" --arithmetic $main --budgets $budgets \
            --count "$count"
    done
    if [ "$device" != tensors ]; then
        step qwen3-0.6b.composed 25 "$bench" speed "$work" --shape qwen3-0.6b --device "$device" --arithmetic $main --budgets 65536 \
            --count 512 --flash off
    fi
    [ $have_peers = 1 ] && for shape in $small; do peers "$shape" 35; done
    ;;
2)
    for shape in $large; do
        mkdir -p "$out/$shape"
        step "$shape/ours" 60 "$bench" speed "$out/$shape" --shape "$shape" --device "$device" --arithmetic $main --budgets 65536 \
            --count $((count / 2))
    done
    [ $have_peers = 1 ] && step ceiling 20 "$python" benches/gpu_peers.py ceiling --device "$torch_device" --dtype $dtype
    [ $have_peers = 1 ] && for shape in $large; do peers "$shape" 35; done
    if command -v ncu > /dev/null; then
        # Two layers of the bench, from its first measured batch on: before it hundreds of kernels try the device.
        step layer 45 ncu --clock-control none --profile-from-start off --launch-count 20 --csv --log-file "$out/layer.csv" \
            "$bench" speed "$work" --shape qwen3-0.6b --layers 2 --device "$device" --arithmetic $main --budgets 65536 --count 512
    fi
    ;;
3)
    must memory 60 "$bench" memory "$work" --shape "${few%% *}" --device "$device" --arithmetic $main
    if command -v compute-sanitizer > /dev/null; then
        step sanitizer 120 compute-sanitizer --error-exitcode 9 "$bench" invariance "$work" --shape "${few%% *}" --layers 2 \
            --device "$device" --arithmetic $main --count 12 --budgets 512
    fi
    ;;
esac
"$python" benches/gpu_peers.py table "$out" | tee "$out/table.txt"
echo "call $call took $(($(date +%s) - begun)) s of $limit; results in $out"
