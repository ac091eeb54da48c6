// The experts' gradients, a batch of rows at a time.
//
// First those of rows, block by block; then those of weights, which sum over rows, expert by expert.
#include "experts.h"

namespace sparsemix {

constexpr long BATCH = 1024;  // rows of a batch, about
constexpr long COLUMNS = 128;  // of a weight gradient that one thread writes at a time

// What the rows of a batch leave for the gradients of weights, in panels.
struct Batch {
    long lane;  // of its first row
    float *dy, *dh, *weighted;

    Batch(const Call& call, long lane, long lanes) : lane(lane), dy(call.scratch) {
        dh = dy + lanes * call.out;
        weighted = dh + lanes * call.width();
    }
};

static void rows_backward(const Call& call, const Batch& batch, const Block& block) {
    long dim = call.dim, out = call.out, hidden = call.hidden, width = call.width();
    long panels = block.panels(), at = block.lane - batch.lane;
    Panels dy{batch.dy + at * out, out}, dh{batch.dh + at * width, width}, weighted{batch.weighted + at * hidden, hidden};
    Panels h{call.saved + block.lane * width, width};
    float* room = workspace(LINE * SLAB + panels * W * dim);
    Panels dx{room + LINE * SLAB, dim};
    Vec w[MOST], dw[MOST];
    const float* bias = call.down_bias ? call.down_bias + block.expert * out : nullptr;
    for (long p = 0; p < panels; ++p) {
        const float* rows[W];
        token_rows(call, block, p, call.dy, out, rows);
        to_panel(rows, out, dy.row(p, 0));
        w[p] = panel_weights(call, block, p);
        dw[p] = Vec{};
        for (long d = 0; bias && d < out; ++d) dw[p] += bias[d] * load(dy.row(p, d));
    }
    Left down = call.down.transposed(block.expert);
    for_slabs(down, out, panels, [&](long begin, long end, bool last) {
        for_lines(hidden, [&](long f, long count) {
            multiply(down, f, count, dy, begin, end, weighted, panels, room, nothing);  // its gradient, for now
            for (long p = 0; last && p < panels; ++p)
                dw[p] += call.act().backward(count, call.rows_of(h, p, f), w[p], call.clamp(), call.rows_of(dh, p, f),
                                             weighted.row(p, f));
        });
    });
    for (long row = 0; row < block.rows; ++row) call.dweight[block.row + row] = dw[row / W][row % W];
    if (call.y) write_rows(call, block, call.up.transposed(block.expert), dh, dx, room, nothing);
}

// The rows of one expert in a batch; `first` if no batch before had any.
struct Share {
    Block block;
    bool first;
};

// to += sum, or = where there is nothing yet, as far as there are columns; past the cache if that is `once` and for all.
static void put(float* to, Vec sum, long columns, bool first, bool once) {
    if (columns < W)
        for (long j = 0; j < columns; ++j) to[j] = first ? sum[j] : to[j] + sum[j];
    else if (once) stream(to, sum);
    else store(to, first ? sum : sum + load(to));
}

// total[r, columns] += sum over the rows n of left(r, n) * right(n, columns); left in panels, right by pack(c, n, room).
template <class Pack>
static void add_up(const Share& share, float* total, const float* left, long rows, long columns, long begin, Pack pack) {
    long panels = share.block.panels(), depth = panels * W, end = std::min(begin + COLUMNS, columns);
    bool once = share.first && panels <= 4;  // so few rows that writing takes longer than multiplying
    float* right = workspace(depth * (COLUMNS + R));
    float* near = right + depth * COLUMNS;
    for (long c = begin; c < end; c += W) pack(c, std::min<long>(W, end - c), right + (c - begin) * depth);
    for_rows(rows, [&](auto several, long r) {
        for (long p = 0; p < panels; ++p) std::memcpy(near + p * several * W, left + (p * rows + r) * W, 4 * several * W);
        Left of = {near, W, 1, several * W};
        for_panels((end - begin + W - 1) / W, [&](auto wide, long p) {
            tile<several, wide>(of, right + p * W * depth, W * depth, panels, W, [&](int i, int v, Vec sum) {
                long c = begin + (p + v) * W;
                put(total + (r + i) * columns + c, sum, end - c, share.first, once);
            });
        });
    });
    if (once) streamed();
}

static void up_backward(const Call& call, const Batch& batch, const Share& share, long begin) {
    const Block& block = share.block;
    auto pack = [&](long c, long count, float* right) {
        std::memset(right, 0, 4 * W * lanes(block.rows));
        for (long n = 0; n < block.rows; ++n)
            std::memcpy(right + n * W, call.x + call.token[block.row + n] * call.dim + c, 4 * count);
    };
    add_up(share, call.dup + block.expert * call.width() * call.dim, batch.dh + (block.lane - batch.lane) * call.width(),
           call.width(), call.dim, begin, pack);
}

static void down_backward(const Call& call, const Batch& batch, const Share& share, long begin) {
    const Block& block = share.block;
    const float* weighted = batch.weighted + (block.lane - batch.lane) * call.hidden;
    auto pack = [&](long c, long count, float* right) {
        for (long p = 0; p < block.panels(); ++p) {
            float* rows[W];
            for (long i = 0; i < W; ++i) rows[i] = right + (p * W + i) * W;
            if (count < W) std::memset(rows[0], 0, 4 * W * W);
            from_panel(weighted + (p * call.hidden + c) * W, 0, count, rows);
        }
    };
    add_up(share, call.ddown + block.expert * call.out * call.hidden, batch.dy + (block.lane - batch.lane) * call.out,
           call.out, call.hidden, begin, pack);
}

// total[r] += sum over rows n of left(r, n), or of w_n left(r, n).
static void add_up_bias(const Call& call, const Share& share, float* total, const float* left, long rows, bool weighted) {
    for (long r = 0; r < rows; ++r) {
        Vec lanes{};
        for (long p = 0; p < share.block.panels(); ++p) {
            Vec one = load(left + (p * rows + r) * W);
            lanes += weighted ? one * panel_weights(call, share.block, p) : one;
        }
        total[r] = share.first ? sum(lanes) : total[r] + sum(lanes);
    }
}

static void biases_backward(const Call& call, const Batch& batch, const Share& share) {
    long at = share.block.lane - batch.lane, e = share.block.expert;
    if (call.dup_bias)
        add_up_bias(call, share, call.dup_bias + e * call.width(), batch.dh + at * call.width(), call.width(), false);
    if (call.ddown_bias)
        add_up_bias(call, share, call.ddown_bias + e * call.out, batch.dy + at * call.out, call.out, true);
}

static void batch_backward(const Call& call, const std::vector<Share>& shares) {
    const Block &first = shares.front().block, &last = shares.back().block;
    Batch batch(call, first.lane, last.lane + lanes(last.rows) - first.lane);
    long most = rows_together(call, last.row + last.rows - first.row);
    std::vector<Block> blocks;
    for (const Share& share : shares)
        for (long row = 0; row < share.block.rows; row += most)
            blocks.push_back({share.block.expert, share.block.row + row, std::min(most, share.block.rows - row),
                              share.block.lane + row});
    long for_up = call.dup ? (call.dim + COLUMNS - 1) / COLUMNS : 0;
    long for_down = call.ddown ? (call.hidden + COLUMNS - 1) / COLUMNS : 0;
    long tasks = 1 + for_up + for_down;
#pragma omp parallel num_threads(call.threads)
    {
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < blocks.size(); ++i) rows_backward(call, batch, blocks[i]);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < shares.size() * tasks; ++i) {
            const Share& share = shares[i / tasks];
            long task = i % tasks;
            if (task == 0) biases_backward(call, batch, share);
            else if (task <= for_up) up_backward(call, batch, share, (task - 1) * COLUMNS);
            else down_backward(call, batch, share, (task - 1 - for_up) * COLUMNS);
        }
    }
}

// Batches of whole experts, or of pieces of one.
static std::vector<std::vector<Share>> batches(const Call& call) {
    std::vector<std::vector<Share>> found(1);
    long lanes_of_last = 0, expert = -1;
    for (const Block& block : cut(call, BATCH)) {
        if (lanes_of_last && lanes_of_last + lanes(block.rows) > BATCH) {
            found.emplace_back();
            lanes_of_last = 0;
        }
        found.back().push_back({block, block.expert != expert});
        lanes_of_last += lanes(block.rows);
        expert = block.expert;
    }
    return found;
}

}  // namespace sparsemix

EXPORT int64_t sparsemix_scratch(const sparsemix::Call* call) {
    return sparsemix::BATCH * (call->out + call->width() + call->hidden);
}

EXPORT void sparsemix_backward(const sparsemix::Call* call) {
    for (const auto& shares : sparsemix::batches(*call)) sparsemix::batch_backward(*call, shares);
    if (call->y) sparsemix::combine(*call, call->dim);
}
