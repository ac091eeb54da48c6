// Vectors of floats as wide as the machine's registers.
//
// In the vector extension of GCC and Clang, which serves any CPU; only stores past the cache take an intrinsic.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace sparsemix {

#if defined(__AVX512F__)
constexpr int W = 16;  // floats in a vector
constexpr int R = 8;   // rows of a tile: R x 2 vectors of sums must leave registers for what is added
#elif defined(__AVX__)
constexpr int W = 8;
constexpr int R = 4;
#elif defined(__SSE__)
constexpr int W = 4;
constexpr int R = 4;
#else
constexpr int W = 4;
constexpr int R = 8;  // 32 registers, as of ARM
#endif

typedef float Vec __attribute__((vector_size(4 * W)));
typedef int IntVec __attribute__((vector_size(4 * W)));

inline Vec load(const float* from) {
    Vec value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline void store(float* to, Vec value) { std::memcpy(to, &value, sizeof value); }

// A store past the cache, for what is larger than it: memory is not read before it is written. Only where a vector fills a
// cache line; half a line at a time is slower than `store`. Ends with `streamed()`.
inline void stream(float* to, Vec value) {
#if defined(__AVX512F__)
    if (reinterpret_cast<uintptr_t>(to) % sizeof(Vec) == 0) return _mm512_stream_ps(to, value);
#endif
    store(to, value);
}

// Other threads see what was streamed.
inline void streamed() {
#if defined(__AVX512F__)
    _mm_sfence();
#endif
}

inline Vec all(float value) { return Vec{} + value; }

inline float sum(Vec value) {
    float total = 0;
    for (int i = 0; i < W; ++i) total += value[i];
    return total;
}

// Row i of the result holds lane i of each row: log2(W) times, row i is woven with row i + W/2.
template <int... I>
inline void weave(Vec (&rows)[W], std::integer_sequence<int, I...>) {
    Vec woven[W];
    for (int i = 0; i < W / 2; ++i) {
        woven[2 * i] = __builtin_shufflevector(rows[i], rows[i + W / 2], (I / 2 + I % 2 * W)...);
        woven[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + W / 2], (W / 2 + I / 2 + I % 2 * W)...);
    }
    std::memcpy(rows, woven, sizeof woven);
}

inline void transpose(Vec (&rows)[W]) {
    for (int step = 1; step < W; step *= 2) weave(rows, std::make_integer_sequence<int, W>{});
}

}  // namespace sparsemix
