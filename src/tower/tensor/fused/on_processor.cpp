// Runs a kernel of kernels.cu on the processor, for the test in mod.rs: blocks one after the other, a thread of the
// processor for each thread of a block, and barriers where a warp or a block exchanges values.
//
//     on_processor gated ELEMENT PACK ROWS WIDTH ACTIVATION
//     on_processor add_norm ELEMENT PACK ROWS WIDTH EPSILON
//     on_processor turn ELEMENT NORMS TOKENS HEADS KV_HEADS HEAD_DIM EPSILON SCALE
//
// WIDTH counts packs. Standard input has the arrays one after the other, standard output gets the result.

#include <barrier>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

struct Index { unsigned x; };
static thread_local Index threadIdx;
static Index blockIdx, blockDim;
static float exchanged[1024];
static std::vector<std::unique_ptr<std::barrier<>>> warps;
static std::unique_ptr<std::barrier<>> block;

static float __shfl_xor_sync(unsigned, float x, int apart) {
    unsigned at = threadIdx.x;
    exchanged[at] = x;
    warps[at / 32]->arrive_and_wait();
    float other = exchanged[at ^ (unsigned)apart];
    warps[at / 32]->arrive_and_wait();
    return other;
}

static void __syncthreads() { block->arrive_and_wait(); }

static unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

#define ON_PROCESSOR
#define __device__ static
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __align__(n) alignas(n)
#include "kernels.cu"

float get(f16 x) {
    _Float16 half;
    memcpy(&half, &x.bits, 2);
    return (float)half;
}

void put(f16 *to, float x) {
    _Float16 half = (_Float16)x;
    memcpy(&to->bits, &half, 2);
}

// Two warps: the kernels take any number.
static const unsigned THREADS = 64;

static void launch(u64 threads, const std::function<void()> &kernel) {
    blockDim.x = THREADS;
    for (u64 at = 0; at < (threads + THREADS - 1) / THREADS; at++) {
        blockIdx.x = (unsigned)at;
        warps.clear();
        for (unsigned warp = 0; warp < THREADS / 32; warp++) warps.push_back(std::make_unique<std::barrier<>>(32));
        block = std::make_unique<std::barrier<>>(THREADS);
        std::vector<std::thread> running;
        for (unsigned thread = 0; thread < THREADS; thread++) {
            running.emplace_back([thread, &kernel] {
                threadIdx.x = thread;
                kernel();
            });
        }
        for (std::thread &thread : running) thread.join();
    }
}

// 16-byte aligned, as a device's memory is.
template <class T> static T *array(u64 count) {
    return (T *)aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64 + 64);
}

template <class T> static T *input(u64 count) {
    T *values = array<T>(count);
    if (fread(values, sizeof(T), count, stdin) != count) exit(3);
    return values;
}

template <class T, int N> static int run(int argc, char **argv) {
    std::string kernel = argv[1];
    auto number = [&](int at) { return at < argc ? strtoull(argv[at], nullptr, 10) : 0; };
    auto real = [&](int at) { return at < argc ? strtof(argv[at], nullptr) : 0.0f; };
    u64 count;
    T *out;
    if (kernel == "turn") {
        u64 tokens = number(4);
        u32 heads = number(5), kv = number(6), d = number(7);
        T *qkv = input<T>(tokens * (heads + 2 * kv) * d);
        u64 positions_of_angles = tokens + 1;
        float *angles = input<float>(positions_of_angles * d);
        u32 *positions = input<u32>(tokens);
        float *norms = number(3) ? input<float>(2 * d) : nullptr;
        count = tokens * (heads + kv) * d;
        out = array<T>(count);
        float epsilon = real(8), scale = real(9);
        launch(32 * tokens * (heads + kv), [=] { turn<T>(qkv, angles, positions, norms, out, tokens, heads, kv, d, epsilon, scale); });
    } else {
        u64 rows = number(4), width = number(5);
        count = rows * width * N * (kernel == "add_norm" ? 2 : 1);
        out = array<T>(count);
        if (kernel == "gated") {
            T *x = input<T>(2 * rows * width * N);
            u32 activation = (u32)number(6);
            launch(rows * width, [=] { gated<T, N>(x, out, rows, width, activation); });
        } else {
            T *x = input<T>(rows * width * N), *change = input<T>(rows * width * N), *weight = input<T>(width * N);
            float epsilon = real(6);
            launch(rows * THREADS, [=] { add_norm<T, N>(x, change, weight, out, rows, (u32)width, epsilon); });
        }
    }
    return fwrite(out, sizeof(T), count, stdout) == count ? 0 : 4;
}

int main(int argc, char **argv) {
    std::string element = argv[2];
    bool packed = std::string(argv[1]) != "turn" && atoi(argv[3]) > 1;
    if (element == "f32") return packed ? run<float, 4>(argc, argv) : run<float, 1>(argc, argv);
    if (element == "f16") return packed ? run<f16, 8>(argc, argv) : run<f16, 1>(argc, argv);
    return packed ? run<bf16, 8>(argc, argv) : run<bf16, 1>(argc, argv);
}
