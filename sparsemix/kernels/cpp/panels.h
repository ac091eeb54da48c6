// Panels: W tokens side by side, one number of each in a vector; made of rows, and back, by transposing.
#pragma once

#include <algorithm>

#include "tile.h"

namespace sparsemix {

// panel[c] = number c of each of W rows; absent rows (null) count as 0.
inline void to_panel(const float* const (&rows)[W], long columns, float* panel) {
    for (long c = 0; c < columns; c += W) {
        Vec block[W];
        int count = std::min<long>(W, columns - c);
        for (int i = 0; i < W; ++i) {
            block[i] = Vec{};
            if (rows[i] && count == W) block[i] = load(rows[i] + c);
            else if (rows[i]) std::memcpy(&block[i], rows[i] + c, 4 * count);
        }
        transpose(block);
        for (int i = 0; i < count; ++i) store(panel + (c + i) * W, block[i]);
    }
}

// The reverse for up to W columns: numbers c to c + count of each row that is there.
inline void from_panel(const float* panel, long c, int count, float* const (&rows)[W]) {
    Vec block[W];
    for (int i = 0; i < W; ++i) block[i] = i < count ? load(panel + i * W) : Vec{};
    transpose(block);
    for (int i = 0; i < W; ++i) {
        if (rows[i] && count == W) store(rows[i] + c, block[i]);
        else if (rows[i]) std::memcpy(rows[i] + c, &block[i], 4 * count);
    }
}

}  // namespace sparsemix
