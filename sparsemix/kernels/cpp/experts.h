// What a call is about, and how its rows are cut into work.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "activations.h"
#include "product.h"

// All else is hidden: libraries of several builds in one process must not share their symbols.
#define EXPORT extern "C" __attribute__((visibility("default")))

namespace sparsemix {

// The matrices of all experts, read where they are.
struct Matrices {
    const float* at;
    int64_t expert, row, col;

    Left of(long e) const { return {at + e * expert, row, col}; }
    Left transposed(long e) const { return {at + e * expert, col, row}; }
};

// Laid out as the caller fills it in; null where there is no such thing or nobody asks.
struct Call {
    int64_t tokens, dim, out, hidden, gated, interleaved, experts, k, activation, threads;
    double limit, alpha, offset;  // of a clamped activation
    const float* x;
    const int64_t* token;
    const float* weight;
    const int32_t* bounds;
    const int64_t* slot;
    Matrices up, down;
    const float *up_bias, *down_bias;
    float* saved;       // the pre-activation, in panels
    float *y_rows, *y;  // without y_rows, every token has one live row, and that is its y
    // of backward only; there y_rows and y are the gradient of x
    const float* dy;
    float *dweight, *dup, *ddown, *dup_bias, *ddown_bias;
    float* scratch;

    long width() const { return gated ? 2 * hidden : hidden; }
    long live() const { return bounds[experts]; }

    // Which row of the up matrix, and so of h, is the gate's f-th; and how far from it the other half's is.
    long gate(long f) const { return interleaved ? 2 * f : f; }
    long to_up() const { return interleaved ? 1 : hidden; }

    Rows rows_of(const Panels& h, long panel, long f) const {
        float* first = h.row(panel, gate(f));
        return {first, gated ? first + to_up() * W : nullptr, gate(1) * W};
    }

    const Activation& act() const { return activations[activation]; }
    Clamp clamp() const { return {float(limit), float(alpha), float(offset)}; }
};

// Consecutive panels of one expert: those from `row` on of the dispatch, `lane` counted in lanes from the first panel.
struct Block {
    long expert, row, rows, lane;

    long panels() const { return (rows + W - 1) / W; }
};

inline long lanes(long rows) { return (rows + W - 1) / W * W; }

// The rows of each expert, in blocks of at most so many (a multiple of W); empty experts too.
inline std::vector<Block> cut(const Call& call, long most) {
    std::vector<Block> blocks;
    long lane = 0;
    for (long e = 0; e < call.experts; ++e) {
        long row = call.bounds[e], end = call.bounds[e + 1];
        do {
            long rows = std::min(most, end - row);
            blocks.push_back({e, row, rows, lane});
            row += rows;
            lane += lanes(rows);
        } while (row < end);
    }
    return blocks;
}

// Rows that go through an expert together: its weights come from memory once for each such block. Fewer where threads
// would be idle.
inline long rows_together(const Call& call, long rows) {
    long panels = MOST;
    while (panels > 2 && rows < 4 * call.threads * panels * W) panels /= 2;
    return panels * W;
}

// Where the W rows of a panel begin in a matrix with a row a token, null past the last.
template <class Row>
inline void token_rows(const Call& call, const Block& block, long panel, Row* matrix, long width, Row* (&rows)[W]) {
    for (long i = 0; i < W; ++i) {
        long row = panel * W + i;
        rows[i] = row < block.rows ? matrix + call.token[block.row + row] * width : nullptr;
    }
}

// The combine weights of a panel, 0 past the last row.
inline Vec panel_weights(const Call& call, const Block& block, long panel) {
    Vec w{};
    for (long i = 0; i < std::min<long>(W, block.rows - panel * W); ++i) w[i] = call.weight[block.row + panel * W + i];
    return w;
}

// Where the W rows of a panel are written: in the order of the dispatch, or straight to their tokens.
inline void output_rows(const Call& call, const Block& block, long panel, long width, float* (&rows)[W]) {
    if (!call.y_rows) return token_rows(call, block, panel, call.y, width, rows);
    for (long i = 0; i < W; ++i) {
        long row = panel * W + i;
        rows[i] = row < block.rows ? call.y_rows + (block.row + row) * width : nullptr;
    }
}

// left * in + start, transposed into the rows of y_rows; `out` is room for the panels between.
template <class Start>
inline void write_rows(const Call& call, const Block& block, Left left, const Panels& in, const Panels& out, float* room,
                       Start start) {
    for_slabs(left, in.rows, block.panels(), [&](long begin, long end, bool last) {
        for_lines(out.rows, [&](long c, long count) {
            multiply(left, c, count, in, begin, end, out, block.panels(), room, start);
            if (!last) return;
            for (long p = 0; p < block.panels(); ++p) {
                float* rows[W];
                output_rows(call, block, p, out.rows, rows);
                for (long i = 0; i < count; i += W) from_panel(out.row(p, c + i), c + i, std::min<long>(W, count - i), rows);
            }
        });
    });
}

// y_t = the sum of its live rows of y_rows, so wide.
inline void combine(const Call& call, long width) {
    if (!call.slot || !call.y_rows) return;
    long live = call.live();
#pragma omp parallel for schedule(static) num_threads(call.threads)
    for (long t = 0; t < call.tokens; ++t) {
        float* y = call.y + t * width;
        bool first = true;
        for (long j = 0; j < call.k; ++j) {
            long slot = call.slot[t * call.k + j];
            if (slot >= live) continue;
            const float* row = call.y_rows + slot * width;
            for (long d = 0; d < width; ++d) y[d] = first ? row[d] : y[d] + row[d];
            first = false;
        }
        if (first) std::memset(y, 0, 4 * width);
    }
}

// Room of a thread's own, which stays for its next call.
inline float* workspace(size_t floats) {
    static thread_local std::vector<float> room;
    if (room.size() < floats + 16) room.resize(floats + 16);
    return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(room.data()) + 63) / 64 * 64);
}

}  // namespace sparsemix
