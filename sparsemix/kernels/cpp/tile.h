// The one matrix product that all others are made of: R numbers times a few vectors, summed in registers.
#pragma once

#include <type_traits>

#include "vectors.h"

namespace sparsemix {

// A matrix that is read a number at a time, so that any strides will do. Its columns may lie in blocks, `block` apart;
// with each, R lines of `ahead` are fetched, and as many of what lies `ahead_block` further with the next.
struct Left {
    const float* at;
    long row, col;
    long block = 0;
    const float* ahead = nullptr;
    long ahead_line = 0, ahead_block = 0;
};

// Sums over blocks x depth of left(r, k) * panel v (k), for `ROWS` rows and V panels that lie `apart`; take(r, v, sum).
template <int ROWS, int V, class Take>
inline void tile(Left left, const float* panels, long apart, long blocks, long depth, Take take) {
    Vec sums[ROWS][V] = {};
    for (long block = 0; block < blocks; ++block) {
        if (left.ahead) {
            for (int r = 0; r < R; ++r) __builtin_prefetch(left.ahead + r * left.ahead_line, 0, 2);
            left.ahead += left.ahead_block;
        }
        const float *upper = left.at, *lower = left.at + 4 * left.row;  // addresses of 8 rows in few registers
        for (long k = 0; k < depth; ++k, upper += left.col, lower += left.col) {
            Vec right[V];
            for (int v = 0; v < V; ++v) right[v] = load(panels + v * apart + k * W);
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; ++r) {
                float a = r < 4 ? upper[r * left.row] : lower[(r - 4) * left.row];
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v) sums[r][v] += a * right[v];
            }
        }
        left.at += left.block;
        panels += depth * W;
    }
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < V; ++v) take(r, v, sums[r][v]);
}

// body(how many, first) for so many rows, R at a time and then singly; how many is a compile-time constant.
template <class Body>
inline void for_rows(long count, Body body) {
    long row = 0;
    for (; row + R <= count; row += R) body(std::integral_constant<int, R>{}, row);
    for (; row < count; ++row) body(std::integral_constant<int, 1>{}, row);
}

// body(how many, first) for so many panels, in pairs and then singly.
template <class Body>
inline void for_panels(long count, Body body) {
    long panel = 0;
    for (; panel + 2 <= count; panel += 2) body(std::integral_constant<int, 2>{}, panel);
    if (panel < count) body(std::integral_constant<int, 1>{}, panel);
}

}  // namespace sparsemix
