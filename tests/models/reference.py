"""A decoder in plain PyTorch, one token and one head at a time, from named weights. Imports no sparsemix."""

import math

import torch


def rms_norm(x, weight, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def turn(x_A, position, theta):
    half = len(x_A) // 2
    out = torch.empty_like(x_A)
    for i in range(half):
        angle = position * theta ** (-2 * i / len(x_A))
        out[i] = x_A[i] * math.cos(angle) - x_A[i + half] * math.sin(angle)
        out[i + half] = x_A[i + half] * math.cos(angle) + x_A[i] * math.sin(angle)
    return out


def attention(x_SD, weights, heads, kv_heads, theta, allowed, positions):
    project = {name: x_SD @ weights[f"{name}.weight"].T for name in ("query", "key", "value")}
    size = project["query"].shape[1] // heads
    outputs = []
    for s in range(len(x_SD)):
        row = []
        for h in range(heads):
            g = h * kv_heads // heads
            part, shared = slice(h * size, (h + 1) * size), slice(g * size, (g + 1) * size)
            query = turn(project["query"][s, part], positions[s], theta)
            seen = [t for t in range(len(x_SD)) if allowed(s, t)]
            keys = torch.stack([turn(project["key"][t, shared], positions[t], theta) for t in seen])
            values = torch.stack([project["value"][t, shared] for t in seen])
            row.append(torch.softmax(keys @ query / math.sqrt(size), 0) @ values)
        outputs.append(torch.cat(row))
    return torch.stack(outputs) @ weights["output.weight"].T


def swiglu(x, gate_up, down):
    gate, up = (gate_up @ x).chunk(2)
    return down @ (gate * torch.sigmoid(gate) * up)


def mixture(x_SD, weights, k, logits_below):
    """Outputs and logits; a router with `residual_E` adds the logits of the mixture below, times that, to its own."""
    outputs, logits_SE = [], []
    for s, x in enumerate(x_SD):
        logits = weights["router.weight_ED"] @ x
        if "router.residual_E" in weights and logits_below is not None:
            logits = logits + weights["router.residual_E"] * logits_below[s]
        probs = torch.softmax(logits, 0)
        best = sorted(range(len(probs)), key=lambda e: -probs[e].item())[:k]
        total = sum(probs[e] for e in best)
        gate_up, down = weights["experts.gate_up_EFD"], weights["experts.down_EDF"]
        outputs.append(sum(probs[e] / total * swiglu(x, gate_up[e], down[e]) for e in best))
        logits_SE.append(logits)
    return torch.stack(outputs), logits_SE


def below(weights, prefix):
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def block_output(x_SD, block, logits_below, *, heads, kv_heads, k, theta, eps, allowed, positions):
    """Of one sequence, and the logits of its mixture or of the last one below."""
    normed = rms_norm(x_SD, block["attention_norm.weight"], eps)
    x_SD = x_SD + attention(normed, below(block, "attention."), heads, kv_heads, theta, allowed, positions)
    ffn = below(block, "ffn.")
    if not ffn:
        return x_SD, logits_below
    normed = rms_norm(x_SD, block["ffn_norm.weight"], eps)
    if "router.weight_ED" in ffn:
        y_SD, logits_below = mixture(normed, ffn, k, logits_below)
    else:
        y_SD = torch.stack([swiglu(x, ffn["gate_up_FD"], ffn["down_DF"]) for x in normed])
    return x_SD + y_SD, logits_below


def chosen_only(x_SD, block, logits_below, chosen, *, allowed, positions, **sizes):
    """Mixture of depths: the chosen tokens go through as if they were the sequence; the others pass by."""
    if not chosen:
        return x_SD, logits_below
    part_SD, logits_below = block_output(
        x_SD[chosen],
        block,
        logits_below,
        allowed=lambda s, t: allowed(chosen[s], chosen[t]),
        positions=[positions[s] for s in chosen],
        **sizes,
    )
    rows = list(x_SD)
    for y_D, s in zip(part_SD, chosen):
        r = block["depth.router.weight_ED"][0] @ x_SD[s]
        rows[s] = x_SD[s] + r * (y_D - x_SD[s])
    return torch.stack(rows), logits_below


def best(x_SD, router, places):
    """The tokens that training chooses."""
    scores = [(router["weight_ED"][0] @ x_D).item() for x_D in x_SD]
    return sorted(sorted(range(len(scores)), key=lambda s: -scores[s])[:places])


def predicted(x_SD, router):
    """The tokens that evaluation chooses."""
    chosen = []
    for s, x_D in enumerate(x_SD):
        score = router["weight_ED"][0] @ x_D
        if "predictor.hidden_FD" in router:
            h = router["predictor.hidden_FD"] @ x_D + router["predictor.hidden_bias_F"]
            score = router["predictor.score_EF"][0] @ (h * torch.sigmoid(h)) + router["predictor.score_bias_E"][0]
        chosen += [s] if torch.sigmoid(score) > 0.5 else []
    return chosen


def decoder_logits(tokens_S, weights, *, layers, eps, choose=None, **sizes):
    """Logits (S, V) of one sequence; a block is a mixture, dense, or attention alone, as its weights say.

    choose(x_SD, weights of the depth's router) -> tokens, ascending, that go through a block with a depth.
    """
    x_SD, logits_below = weights["embedding.weight"][tokens_S], None
    for layer in range(layers):
        block = below(weights, f"blocks.{layer}.")
        router = below(block, "depth.router.")
        if router:
            x_SD, logits_below = chosen_only(x_SD, block, logits_below, choose(x_SD, router), eps=eps, **sizes)
        else:
            x_SD, logits_below = block_output(x_SD, block, logits_below, eps=eps, **sizes)
    x_SD = rms_norm(x_SD, weights["norm.weight"], eps)
    return x_SD @ weights.get("unembedding.weight", weights["embedding.weight"]).T
