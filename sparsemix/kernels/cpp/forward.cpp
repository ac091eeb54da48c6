// The experts' outputs: a block of rows goes through both projections while it is in the cache.
#include "experts.h"

namespace sparsemix {

static void forward(const Call& call, const Block& block) {
    long dim = call.dim, hidden = call.hidden, width = call.width(), panels = block.panels();
    long wider = std::max<long>(dim, call.out);  // y takes the room of x, which is done with by then
    float* room = workspace(panels * W * (wider + hidden) + LINE * SLAB);
    Panels x{room, dim}, y{room, call.out}, weighted{room + panels * W * wider, hidden};
    Panels h{call.saved + block.lane * width, width};
    room = weighted.row(panels, 0);
    Vec w[MOST];
    for (long p = 0; p < panels; ++p) {
        const float* rows[W];
        token_rows(call, block, p, call.x, dim, rows);
        to_panel(rows, dim, x.row(p, 0));
        w[p] = panel_weights(call, block, p);
    }
    const float* bias = call.up_bias ? call.up_bias + block.expert * width : nullptr;
    Left up = call.up.of(block.expert);
    for_slabs(up, dim, panels, [&](long begin, long end, bool last) {
        auto project = [&](long g, long count) {
            multiply(up, g, count, x, begin, end, h, panels, room, [&](long g, long) { return bias ? all(bias[g]) : Vec{}; });
        };
        for_lines(hidden, [&](long f, long count) {
            project(call.gate(f), count);
            if (call.gated) project(call.gate(f) + (call.interleaved ? count : hidden), count);
            for (long p = 0; last && p < panels; ++p)
                call.act().forward(count, call.rows_of(h, p, f), w[p], call.clamp(), weighted.row(p, f));
        });
    });
    const float* down_bias = call.down_bias ? call.down_bias + block.expert * call.out : nullptr;
    write_rows(call, block, call.down.of(block.expert), weighted, y, room,
               [&](long d, long p) { return down_bias ? w[p] * down_bias[d] : Vec{}; });
}

}  // namespace sparsemix

EXPORT int64_t sparsemix_lanes() { return sparsemix::W; }

EXPORT void sparsemix_forward(const sparsemix::Call* call) {
    auto blocks = sparsemix::cut(*call, sparsemix::rows_together(*call, call->live()));
#pragma omp parallel for schedule(dynamic) num_threads(call->threads)
    for (size_t i = 0; i < blocks.size(); ++i)
        if (blocks[i].rows) sparsemix::forward(*call, blocks[i]);
    sparsemix::combine(*call, call->out);
}
