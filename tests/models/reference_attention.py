"""Attention in plain PyTorch, one query of one head at a time, in float64. Imports no sparsemix."""

import math

import torch


def softmax_attention(query, key, value, allowed, scale, sinks=None):
    """For q (B, H, Q, A) over k and v (B, G, K, .); allowed(row, query, key) says who is seen; a sink a head."""
    rows = []
    for b in range(len(query)):
        for h in range(query.shape[1]):
            g = h * key.shape[1] // query.shape[1]
            for q in range(query.shape[2]):
                seen = [k for k in range(key.shape[2]) if allowed(b, q, k)]
                exps = torch.stack([(scale * (query[b, h, q] @ key[b, g, k])).exp() for k in seen])
                total = exps.sum() if sinks is None else exps.sum() + sinks[h].exp()
                rows.append(sum(e / total * value[b, g, k] for e, k in zip(exps, seen)))
    return torch.stack(rows).view(*query.shape[:3], value.shape[-1])


def turn(x_A, position, theta):
    half = len(x_A) // 2
    angles = [position * theta ** (-i / half) for i in range(half)]
    first = [x_A[i] * math.cos(a) - x_A[i + half] * math.sin(a) for i, a in enumerate(angles)]
    second = [x_A[i + half] * math.cos(a) + x_A[i] * math.sin(a) for i, a in enumerate(angles)]
    return torch.stack(first + second)


def norm(x_A, weight, eps):
    return x_A / torch.sqrt((x_A * x_A).mean() + eps) * weight


def latent_attention(x_SD, weights, *, heads, nope, rope, value, rank, theta, eps):
    """Of one sequence; each head's key is [its own part, the part that all share and that turns]."""

    def project(name, x):
        y = weights[f"{name}.weight"] @ x
        return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y

    def queries(x):
        if "query.weight" in weights:
            return project("query", x)
        return project("query_up", norm(project("query_down", x), weights["query_norm.weight"], eps))

    query, key, values = [], [], []
    for s, x in enumerate(x_SD):
        narrow = project("latent", x)
        up = project("key_value_up", norm(narrow[:rank], weights["latent_norm.weight"], eps)).view(heads, -1)
        shared = turn(narrow[rank:], s, theta)
        query.append([torch.cat([q[:nope], turn(q[nope:], s, theta)]) for q in queries(x).view(heads, -1)])
        key.append([torch.cat([up[h, :nope], shared]) for h in range(heads)])
        values.append([up[h, nope:] for h in range(heads)])
    stacked = (torch.stack([torch.stack(row) for row in one]).transpose(0, 1)[None] for one in (query, key, values))
    mixed = softmax_attention(*stacked, lambda b, q, k: k <= q, 1 / math.sqrt(nope + rope))
    return torch.stack([project("output", row) for row in mixed[0].transpose(0, 1).reshape(len(x_SD), heads * value)])
