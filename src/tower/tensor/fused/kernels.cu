// The fused steps (mod.rs) on a GPU. Compiled when a card first needs them, by NVRTC, which has no header files:
// hence the elements of 16 bits are written out. `make cuda` compiles the same text with nvcc.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct bf16 { u16 bits; };
struct f16 { u16 bits; };

__device__ __forceinline__ float get(float x) { return x; }

__device__ __forceinline__ float get(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

#ifdef ON_PROCESSOR // on_processor.cpp, which has no such instructions
float get(f16 x);
void put(f16 *to, float x);
#else
__device__ __forceinline__ float get(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

__device__ __forceinline__ void put(f16 *to, float x) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    to->bits = bits;
}
#endif

__device__ __forceinline__ void put(float *to, float x) { *to = x; }

// To the nearest, ties to even.
__device__ __forceinline__ void put(bf16 *to, float x) {
    u32 bits = __float_as_uint(x);
    to->bits = x != x ? 0x7fff : (u16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// N elements that are read and written at once.
template <class T, int N> struct __align__(sizeof(T) * N) Pack { T at[N]; };

// The sum over a warp, in every thread of it.
__device__ __forceinline__ float warp_sum(float x) {
    for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(0xffffffffu, x, apart);
    return x;
}

// Functions by their number in gated.rs.
__device__ __forceinline__ float activate(float x, u32 activation) {
    switch (activation) {
    case 0: return x / (1.0f + expf(-x));
    // x times the logistic function of twice the tangent's argument.
    case 1: return x / (1.0f + expf(-1.595769f * (x + 0.044715f * x * x * x)));
    case 2: return x * 0.5f * (1.0f + erff(x * 0.70710678f));
    default: return fmaxf(x, 0.0f);
    }
}

// activation(gate) * up. Row r of gate_up has 2 width packs; one thread makes one pack.
template <class T, int N>
__device__ __forceinline__ void gated(const T *gate_up, T *out, u64 rows, u64 width, u32 activation) {
    typedef Pack<T, N> P;
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= rows * width) return;
    const P *row = (const P *)gate_up + at / width * (2 * width);
    P gate = row[at % width], up = row[width + at % width], result;
#pragma unroll
    for (int i = 0; i < N; i++) put(&result.at[i], activate(get(gate.at[i]), activation) * get(up.at[i]));
    ((P *)out)[at] = result;
}

// activation(up + bias), `width` packs a row; one thread makes one pack.
template <class T, int N>
__device__ __forceinline__ void activated(const T *up, const T *bias, T *out, u64 rows, u64 width, u32 activation) {
    typedef Pack<T, N> P;
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= rows * width) return;
    P x = ((const P *)up)[at], b = ((const P *)bias)[at % width], result;
#pragma unroll
    for (int i = 0; i < N; i++) put(&result.at[i], activate(get(x.at[i]) + get(b.at[i]), activation));
    ((P *)out)[at] = result;
}

// The sum over a block, in every thread of it.
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float parts[32];
    x = warp_sum(x);
    // The parts of the sum before are read by then.
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : 0.0f);
}

// out[0] = x + change, out[1] = its norm. RMS: times the one row of `table`. LAYER: its first row is added to change, the second
// is the weight, the third the bias. One block a row, `width` packs.
template <class T, int N, bool LAYER>
__device__ __forceinline__ void add_norm(const T *x, const T *change, const T *table, T *out, u64 rows, u32 width,
                                         float epsilon) {
    typedef Pack<T, N> P;
    u64 start = (u64)blockIdx.x * width;
    const P *xs = (const P *)x + start, *changes = (const P *)change + start, *adds = (const P *)table;
    const P *weights = LAYER ? adds + width : adds, *biases = weights + width;
    P *sums = (P *)out + start, *normal = (P *)out + rows * width + start;
    float total = 0.0f, square = 0.0f;
    for (u32 at = threadIdx.x; at < width; at += blockDim.x) {
        P a = xs[at], b = changes[at], add, sum;
        if (LAYER) add = adds[at];
#pragma unroll
        for (int i = 0; i < N; i++) {
            put(&sum.at[i], get(a.at[i]) + (LAYER ? get(b.at[i]) + get(add.at[i]) : get(b.at[i])));
            float rounded = get(sum.at[i]);
            total += rounded;
            square += rounded * rounded;
        }
        sums[at] = sum;
    }
    // Each thread reads what it wrote itself.
    float mean = 0.0f;
    if (LAYER) {
        mean = block_sum(total) / (float)(width * N);
        square = 0.0f;
        for (u32 at = threadIdx.x; at < width; at += blockDim.x) {
            P sum = sums[at];
#pragma unroll
            for (int i = 0; i < N; i++) square += (get(sum.at[i]) - mean) * (get(sum.at[i]) - mean);
        }
    }
    float scale = rsqrtf(block_sum(square) / (float)(width * N) + epsilon);
    for (u32 at = threadIdx.x; at < width; at += blockDim.x) {
        P sum = sums[at], by = weights[at], bias, result;
        if (LAYER) bias = biases[at];
#pragma unroll
        for (int i = 0; i < N; i++) {
            float value = (get(sum.at[i]) - mean) * scale * get(by.at[i]);
            put(&result.at[i], LAYER ? value + get(bias.at[i]) : value);
        }
        normal[at] = result;
    }
}

// One warp turns one query or key head of one token; `angles` has `half` cosines and as many sines for each position.
template <class T>
__device__ __forceinline__ void turn(const T *qkv, const float *angles, const u32 *positions, const float *norms, T *out,
                                     u64 tokens, u32 heads, u32 kv_heads, u32 head_dim, float epsilon, float scale) {
    u64 at = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    u32 lane = threadIdx.x % 32, turned = heads + kv_heads, half = head_dim / 2;
    u64 token = at / turned;
    u32 head = (u32)(at % turned);
    if (token >= tokens) return;
    const T *from = qkv + (token * (turned + kv_heads) + head) * head_dim;
    bool query = head < heads;
    T *to = out + (query ? (token * heads + head) * head_dim
                         : tokens * heads * head_dim + (token * kv_heads + head - heads) * head_dim);
    float normal = 1.0f;
    if (norms) {
        float square = 0.0f;
        for (u32 i = lane; i < head_dim; i += 32) square += get(from[i]) * get(from[i]);
        normal = rsqrtf(warp_sum(square) / (float)head_dim + epsilon);
        norms += query ? 0 : head_dim;
    }
    if (!query) scale = 1.0f;
    const float *cosines = angles + (u64)positions[token] * head_dim, *sines = cosines + half;
    for (u32 i = lane; i < half; i += 32) {
        float a = get(from[i]) * normal, b = get(from[half + i]) * normal;
        if (norms) {
            a *= norms[i];
            b *= norms[half + i];
        }
        float c = cosines[i], s = sines[i];
        put(to + i, (a * c - b * s) * scale);
        put(to + half + i, (b * c + a * s) * scale);
    }
}

#define NORMS(T, NAME, N, KERNEL, LAYER)                                                                                \
    extern "C" __global__ void KERNEL##_##NAME##_1(const T *x, const T *change, const T *table, T *out, u64 rows,       \
                                                   u32 width, float epsilon) {                                          \
        add_norm<T, 1, LAYER>(x, change, table, out, rows, width, epsilon);                                             \
    }                                                                                                                   \
    extern "C" __global__ void KERNEL##_##NAME##_##N(const T *x, const T *change, const T *table, T *out, u64 rows,     \
                                                     u32 width, float epsilon) {                                        \
        add_norm<T, N, LAYER>(x, change, table, out, rows, width, epsilon);                                             \
    }

#define KERNELS(T, NAME, N)                                                                                             \
    extern "C" __global__ void gated_##NAME##_1(const T *x, T *out, u64 rows, u64 width, u32 activation) {              \
        gated<T, 1>(x, out, rows, width, activation);                                                                   \
    }                                                                                                                   \
    extern "C" __global__ void gated_##NAME##_##N(const T *x, T *out, u64 rows, u64 width, u32 activation) {            \
        gated<T, N>(x, out, rows, width, activation);                                                                   \
    }                                                                                                                   \
    extern "C" __global__ void activated_##NAME##_1(const T *x, const T *bias, T *out, u64 rows, u64 width,             \
                                                    u32 activation) {                                                   \
        activated<T, 1>(x, bias, out, rows, width, activation);                                                         \
    }                                                                                                                   \
    extern "C" __global__ void activated_##NAME##_##N(const T *x, const T *bias, T *out, u64 rows, u64 width,           \
                                                      u32 activation) {                                                 \
        activated<T, N>(x, bias, out, rows, width, activation);                                                         \
    }                                                                                                                   \
    NORMS(T, NAME, N, add_norm, false)                                                                                  \
    NORMS(T, NAME, N, add_layer_norm, true)                                                                             \
    extern "C" __global__ void turn_##NAME(const T *qkv, const float *angles, const u32 *positions, const float *norms, \
                                           T *out, u64 tokens, u32 heads, u32 kv_heads, u32 head_dim, float epsilon,    \
                                           float scale) {                                                               \
        turn<T>(qkv, angles, positions, norms, out, tokens, heads, kv_heads, head_dim, epsilon, scale);                 \
    }

KERNELS(float, f32, 4)
KERNELS(f16, f16, 8)
KERNELS(bf16, bf16, 8)
