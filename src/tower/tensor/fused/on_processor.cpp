// Runs a kernel of kernels.cu on the processor, for the test in mod.rs: blocks one after the other, the threads of a block in
// turns, which change where a warp or a block exchanges values.
//
//     on_processor gated ELEMENT PACK ROWS WIDTH ACTIVATION
//     on_processor activated ELEMENT PACK ROWS WIDTH ACTIVATION
//     on_processor add_norm ELEMENT PACK ROWS WIDTH EPSILON LAYER
//     on_processor turn ELEMENT NORMS TOKENS HEADS KV_HEADS HEAD_DIM EPSILON SCALE
//
// WIDTH counts packs. Standard input has the arrays one after the other, standard output gets the result.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <ucontext.h>
#include <vector>

struct Index { unsigned x; };
static Index threadIdx, blockIdx, blockDim;

// Two warps: the kernels take any number.
static const unsigned THREADS = 64;

struct Thread {
    ucontext_t context;
    std::vector<char> stack;
    bool over;
};
static Thread threads[THREADS];
static ucontext_t scheduler;
static const std::function<void()> *running;
static float exchanged[THREADS];

// Lets all other threads of the block come as far: they take turns, and every warp and block does the same steps.
static void pass_on() {
    unsigned own = threadIdx.x;
    swapcontext(&threads[own].context, &scheduler);
}

static float __shfl_xor_sync(unsigned, float x, int apart) {
    exchanged[threadIdx.x] = x;
    pass_on();
    float other = exchanged[threadIdx.x ^ (unsigned)apart];
    pass_on();
    return other;
}

static void __syncthreads() { pass_on(); }

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

static void run_thread() {
    (*running)();
    threads[threadIdx.x].over = true;
}

static void launch(u64 count, const std::function<void()> &kernel) {
    running = &kernel;
    blockDim.x = THREADS;
    for (u64 at = 0; at < (count + THREADS - 1) / THREADS; at++) {
        blockIdx.x = (unsigned)at;
        for (Thread &thread : threads) {
            thread.stack.resize(256 << 10);
            thread.over = false;
            getcontext(&thread.context);
            thread.context.uc_stack.ss_sp = thread.stack.data();
            thread.context.uc_stack.ss_size = thread.stack.size();
            thread.context.uc_link = &scheduler;
            makecontext(&thread.context, run_thread, 0);
        }
        for (unsigned left = THREADS; left > 0;) {
            left = 0;
            for (unsigned thread = 0; thread < THREADS; thread++) {
                if (threads[thread].over) continue;
                threadIdx.x = thread;
                swapcontext(&scheduler, &threads[thread].context);
                left += !threads[thread].over;
            }
        }
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
        } else if (kernel == "activated") {
            T *x = input<T>(rows * width * N), *bias = input<T>(width * N);
            u32 activation = (u32)number(6);
            launch(rows * width, [=] { activated<T, N>(x, bias, out, rows, width, activation); });
        } else {
            bool layer = number(7);
            T *x = input<T>(rows * width * N), *change = input<T>(rows * width * N);
            T *table = input<T>((layer ? 3 : 1) * width * N);
            float epsilon = real(6);
            launch(rows * THREADS, [=] {
                if (layer) add_norm<T, N, true>(x, change, table, out, rows, (u32)width, epsilon);
                else add_norm<T, N, false>(x, change, table, out, rows, (u32)width, epsilon);
            });
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
