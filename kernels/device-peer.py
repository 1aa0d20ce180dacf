"""How many sentences a second PyTorch embeds on the device, with the shapes and lengths of our timings.

    device-peer.py LENGTHS      a file with one length a line

Random weights in bf16, scaled_dot_product_attention, batches of sentences of similar lengths, padded to the longest.
"""

import sys
import time

import torch
from torch.nn import functional as F

SHAPES = [("MiniLM, 6 layers of 384", 384, 6), ("bge-base, 12 layers of 768", 768, 12)]
HEADS, VOCAB, LONGEST, BATCH_TOKENS, RUNS = 12, 30522, 512, 1 << 16, 5


def weights(hidden, n_layers):
    def of(*shape):
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * shape[-1] ** -0.5

    def norm():
        return torch.ones(hidden, device="cuda", dtype=torch.bfloat16), of(hidden)

    layers = [
        {
            "qkv": (of(3 * hidden, hidden), of(3 * hidden)),
            "attended": (of(hidden, hidden), of(hidden)),
            "wide": (of(4 * hidden, hidden), of(4 * hidden)),
            "narrow": (of(hidden, 4 * hidden), of(hidden)),
            "norms": (norm(), norm()),
        }
        for _ in range(n_layers)
    ]
    return of(VOCAB, hidden), of(LONGEST, hidden), norm(), layers


def embed(model, ids, lengths):
    words, positions, first_norm, layers = model
    hidden = words.shape[1]
    there = torch.arange(ids.shape[1], device="cuda")[None] < lengths[:, None]
    mask = None if bool(there.all()) else there[:, None, None]
    x = F.layer_norm(words[ids] + positions[: ids.shape[1]], (hidden,), *first_norm)
    for layer in layers:
        qkv = F.linear(x, *layer["qkv"]).view(*ids.shape, 3, HEADS, hidden // HEADS).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv, attn_mask=mask).transpose(1, 2).reshape(*ids.shape, hidden)
        x = F.layer_norm(x + F.linear(mixed, *layer["attended"]), (hidden,), *layer["norms"][0])
        inner = F.gelu(F.linear(x, *layer["wide"]))
        x = F.layer_norm(x + F.linear(inner, *layer["narrow"]), (hidden,), *layer["norms"][1])
    means = (x * there[..., None]).sum(1, dtype=torch.float32) / lengths[:, None]
    return F.normalize(means).cpu()


def main():
    lengths = [int(line) for line in open(sys.argv[1])]
    batches, batch = [], []
    for length in lengths:  # sorted, so that the newest is the longest
        if batch and length * (len(batch) + 1) > BATCH_TOKENS:
            batches.append(batch)
            batch = []
        batch.append(length)
    batches.append(batch)
    inputs = [(torch.randint(VOCAB, (len(b), b[-1])), torch.tensor(b)) for b in batches]
    for name, hidden, n_layers in SHAPES:
        model = weights(hidden, n_layers)
        times = []
        with torch.inference_mode():
            for _ in range(RUNS + 1):
                start = time.perf_counter()
                for ids, of in inputs:
                    embed(model, ids.cuda(), of.cuda())
                times.append(time.perf_counter() - start)
        seconds = sorted(times[1:])[RUNS // 2]
        print(f"PyTorch {torch.__version__}, {name}: {len(lengths) / seconds:.0f} sentences/s", flush=True)


main()
