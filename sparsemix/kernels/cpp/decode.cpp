// What generation is made of: every weight is read once, and memory is what takes the time.
#include <cmath>

#include "experts.h"

namespace sparsemix {

// <row, x>, in four sums so that none waits for the last.
static float dot(const float* row, const float* x, long count) {
    Vec sums[4] = {};
    long i = 0;
    for (; i + 4 * W <= count; i += 4 * W)
        for (int j = 0; j < 4; ++j) sums[j] += load(row + i + j * W) * load(x + i + j * W);
    for (; i + W <= count; i += W) sums[0] += load(row + i) * load(x + i);
    float total = sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < count; ++i) total += row[i] * x[i];
    return total;
}

}  // namespace sparsemix

// y = matrix x + bias, (rows) from (columns); rows lie `stride` apart.
EXPORT void sparsemix_one_row(const float* matrix, int64_t stride, const float* bias, const float* x, float* y, int64_t rows,
                              int64_t columns, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; ++r) y[r] = sparsemix::dot(matrix + r * stride, x, columns) + (bias ? bias[r] : 0);
}

// y = x / sqrt(mean(x^2) + eps) * weight, row by row.
EXPORT void sparsemix_rms_norm(const float* x, const float* weight, float* y, int64_t rows, int64_t columns, double eps,
                               int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * columns > 1 << 15)
    for (int64_t r = 0; r < rows; ++r) {
        const float* row = x + r * columns;
        float scale = 1 / std::sqrt(sparsemix::dot(row, row, columns) / columns + float(eps));
        for (int64_t c = 0; c < columns; ++c) y[r * columns + c] = row[c] * scale * weight[c];
    }
}

// y = sum over the k experts j of w_j (down_j act(up_j x + b_j) + c_j), one token; the experts' rows are contiguous. Each
// thread reads a stretch of one matrix after the other, as memory likes it.
EXPORT void sparsemix_one_token(const sparsemix::Call* call, const int64_t* expert) {
    using namespace sparsemix;
    long k = call->k, out = call->out, hidden = call->hidden, padded = lanes(hidden), halves = call->gated ? 2 : 1;
    long step = call->gate(1), to_up = call->to_up();
    float* h = workspace((halves + 1) * padded * k);  // gate and up of each expert; then what goes down
    float* weighted = h + halves * padded * k;
    std::fill_n(h, halves * padded * k, 0.0f);
#pragma omp parallel num_threads(call->threads)
    {
#pragma omp for schedule(static)
        for (long i = 0; i < k * halves * hidden; ++i) {
            long half = i / hidden, f = i % hidden, e = expert[half / halves];
            long row = f * step + half % halves * to_up;
            float sum = dot(call->up.at + e * call->up.expert + row * call->up.row, call->x, call->dim);
            h[half * padded + f] = sum + (call->up_bias ? call->up_bias[e * call->width() + row] : 0);
        }
#pragma omp for schedule(static)
        for (long i = 0; i < k * padded; i += W) {
            float* gate = h + i / padded * halves * padded + i % padded;
            call->act().forward(1, {gate, call->gated ? gate + padded : nullptr, 0}, all(call->weight[i / padded]),
                                call->clamp(), weighted + i);
        }
        for (long j = 0; j < k; ++j) {
            long e = expert[j];
#pragma omp for schedule(static) nowait
            for (long d = 0; d < out; ++d) {
                float sum = dot(call->down.at + e * call->down.expert + d * call->down.row, weighted + j * padded, hidden);
                if (call->down_bias) sum += call->weight[j] * call->down_bias[e * out + d];
                call->y[d] = j ? call->y[d] + sum : sum;
            }
        }
    }
    if (!k) std::fill_n(call->y, out, 0.0f);
}
