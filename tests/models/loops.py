"""Networks written as loops in float64, to compare ours with."""

import jax
import numpy as np

LENGTHS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


def layer_norm(row, params):
    row = row - row.mean()
    return row / np.sqrt((row**2).mean() + 1e-5) * params["scale"] + params["bias"]


def pair_features(offset):
    x, y, z = offset
    moments = [x * x, x * y, x * z, y * y, y * z, z * z]
    bumps = [np.exp(-0.5 * (offset @ offset) / length**2) for length in LENGTHS]
    return np.array([x, y, z, *moments, *bumps])


def attend(params, values, graph, num_heads):
    """Follows the docstring of `models.geometric_attention` node by node.

    Returns features [node, f], and means and covariances of [node * head].
    """
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
    values, positions = values.astype(float), graph.supernode_positions.astype(float)
    inner = [layer_norm(row, params["norm_attention"]) for row in values]
    split = lambda row: row.reshape(num_heads, -1)  # noqa: E731
    query, key, value = (
        [split(row @ params[name]["kernel"]) for row in inner]
        for name in ("query", "key", "value")
    )
    look = [split(r @ params["look"]["kernel"] + params["look"]["bias"]) for r in inner]
    outputs, means, covariances = [], [], []
    for i in range(len(values)):
        real = (graph.coarse.receivers == i) & graph.coarse.edges["mask"]
        senders = [*graph.coarse.senders[real], i]
        psi = np.array([pair_features(positions[j] - positions[i]) for j in senders])
        pooled = []
        for h in range(num_heads):
            logits = psi @ look[i][h] + [
                query[i][h] @ key[j][h] / np.sqrt(len(key[j][h])) for j in senders
            ]
            weights = np.exp(logits - logits.max())
            weights /= weights.sum()
            seen = sum(w * value[j][h] for w, j in zip(weights, senders, strict=True))
            pooled.append(np.concatenate([seen, weights @ psi]))
            offsets = psi[:, :3]
            mean = weights @ offsets
            means.append(mean)
            covariances.append((offsets - mean).T * weights @ (offsets - mean))
        row = values[i] + np.concatenate(pooled) @ params["out"]["kernel"]
        row = row + params["out"]["bias"]
        hidden = layer_norm(row, params["norm_update"]) @ params["update_0"]["kernel"]
        hidden = np.maximum(hidden + params["update_0"]["bias"], 0)
        row = row + hidden @ params["update_1"]["kernel"] + params["update_1"]["bias"]
        outputs.append(row)
    return np.array(outputs), np.array(means), np.array(covariances)


def whiten(covariances):
    """Returns inverse covariances over the root of their mean eigenvalue."""
    inverse = np.linalg.inv(covariances + 1e-4 * np.eye(3))
    trace = np.trace(inverse, axis1=1, axis2=2)[:, None, None]
    return inverse / np.sqrt(trace / 3)
