"""Writes `all-minilm-l6-v2.json`: texts and the vectors that sentence-transformers gives them.

    pip install sentence-transformers
    python make.py <folder of the model, with modules.json and 1_Pooling> > all-minilm-l6-v2.json
"""
import json
import sys

import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer

TEXTS = [
    "",
    "cache",
    "A cache keeps what is used often close to where it is used.",
    "Why is the second read of a file faster than the first?",
    "The quick brown fox jumps over the lazy dog.",
    "Ünïcödé: naïve café, Straße, ÅNGSTRÖM, İstanbul.",
    "Überraschung! Der Zug fährt heute nicht; nehmen Sie bitte den Bus.",
    "東京は日本の首都です。",
    "한국어 문장도 토큰이 된다.",
    "fn main() { let x: Vec<u8> = (0..=255).collect(); println!(\"{x:?}\"); }",
    "Prices rose 3.5% to $1,299.99 (see https://example.org/a?b=c#d) 🎉🎉",
    "tab\tnewline\nzero\u200bwidth non\u00a0breaking e\u0301 combining",
    "pneumonoultramicroscopicsilicovolcanoconiosis " + "x" * 120,
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the slings and arrows "
    "of outrageous fortune, or to take arms against a sea of troubles and by opposing end them. " * 4,
]

model = SentenceTransformer(sys.argv[1], device="cpu")
assert model.max_seq_length == 256
vectors = model.encode(TEXTS, batch_size=1)
json.dump(
    {
        "made_with": f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}",
        "texts": TEXTS,
        "vectors": [[float(f"{x:.7g}") for x in vector] for vector in vectors],
    },
    sys.stdout,
    ensure_ascii=False,
    separators=(",", ":"),
)
