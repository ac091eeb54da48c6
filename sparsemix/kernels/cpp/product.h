// Products of an expert's matrix with panels of tokens, a slab of the depth at a time.
#pragma once

#include "panels.h"

namespace sparsemix {

constexpr int MOST = 128 / W;  // panels that are multiplied together, at most
constexpr long SLAB = 512;     // of the depth: what MOST panels hold of it stays in the second-level cache
constexpr long SHORT = 64;     // where weights are columns and used once: their neighbours follow soon
constexpr long LONG = 4096;    // where they are rows and used once
constexpr long LINE = 16;      // rows at a time: numbers of a cache line, so that none is read twice where rows are columns

// `rows` numbers of each token, W tokens a panel.
struct Panels {
    float* at;
    long rows;

    float* row(long panel, long r) const { return at + (panel * rows + r) * W; }
};

// Whether weights pay being fetched ahead, rather than copied for reuse: so few panels are done before they arrive.
inline bool few(long panels) { return panels <= 2; }

// body(begin, end, last) for slabs of the depth, in order.
template <class Body>
inline void for_slabs(const Left& left, long depth, long panels, Body body) {
    long slab = !few(panels) ? SLAB : left.row == 1 ? SHORT : LONG;
    for (long begin = 0; begin < depth; begin += slab) {
        long end = std::min(begin + slab, depth);
        body(begin, end, end == depth);
    }
}

// body(begin, how many) for so many rows, LINE at a time.
template <class Body>
inline void for_lines(long rows, Body body) {
    for (long r = 0; r < rows; r += LINE) body(r, std::min(LINE, rows - r));
}

// The columns, copied together: those of a matrix whose rows are a power of 2 long drive each other out of the cache
// before the next panel wants them.
inline Left copied(Left left, long rows, long depth, float* room) {
    for (long k = 0; k < depth; ++k) {
        const float* from = left.at + k * left.col;
        __builtin_prefetch(from + LINE, 0, 2);  // of the next rows
        if (rows == LINE) std::memcpy(room + k * LINE, from, 4 * LINE);
        else std::copy(from, from + rows, room + k * LINE);
    }
    return {room, 1, LINE};
}

// In blocks of columns; while one is multiplied, what is needed next is fetched: the next rows, or the next slab's.
inline Left fetching(Left left, long first, long rows) {
    left.block = LINE * left.col;
    left.ahead = left.col == 1 ? left.at + rows * left.row : left.at + (SHORT + first) * left.col;
    left.ahead_line = left.col == 1 ? left.row : left.col;
    left.ahead_block = LINE * left.col;
    return left;
}

// Rows r to r + count of out = left * in, as far as depth begin to end has to do with it; start(r, panel) goes to the
// first slab. `room` holds LINE * SLAB floats.
template <class Start>
inline void multiply(Left left, long r, long count, const Panels& in, long begin, long end, const Panels& out, long panels,
                     float* room, Start start) {
    long depth = end - begin, blocks = 1;
    left.at += r * left.row + begin * left.col;
    if (left.row == 1 && !few(panels)) left = copied(left, count, depth, room);
    bool fetch = few(panels) && depth % LINE == 0;
    if (fetch) blocks = std::exchange(depth, LINE) / LINE;
    for_rows(count, [&](auto rows, long first) {
        Left of{left.at + first * left.row, left.row, left.col};
        if (fetch) of = fetching(of, first, rows);
        for_panels(panels, [&](auto several, long p) {
            tile<rows, several>(of, in.row(p, begin), in.rows * W, blocks, depth, [&](int i, int v, Vec sum) {
                float* to = out.row(p + v, r + first + i);
                store(to, sum + (begin ? load(to) : start(r + first + i, p + v)));
            });
        });
    });
}

inline Vec nothing(long, long) { return Vec{}; }

}  // namespace sparsemix
