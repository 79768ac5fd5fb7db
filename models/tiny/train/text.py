# SPDX-License-Identifier: MIT
"""The text side: a unigram tokenizer of its own and a small encoder in umT5's layout."""

import base64
import html
import io
import json
import re
import struct
import unicodedata
from dataclasses import dataclass

import numpy as np
import sentencepiece
import torch
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

import data

LENGTH = 24
PIECES = 768
WIDTH = 128
CAPTIONS = 20000


@dataclass(frozen=True)
class Size:
    """Of the text side: tokens of a prompt, pieces of the vocabulary, and the encoder's dimensions."""
    length: int = LENGTH
    pieces: int = PIECES
    width: int = WIDTH
    layers: int = 2
    heads: int = 4
    inner: int = 256


SMALL = Size()


def folding_rules():
    """Compatibility forms and capitals of Latin letters, in sentencepiece's table format."""
    ranges = [(0x20, 0x250), (0x1E00, 0x1F00), (0x2000, 0x2070), (0xFB00, 0xFB07), (0xFF01, 0xFF5F)]
    points = [p for low, high in ranges for p in range(low, high)]
    rows = ["9\t20", "A\t20", "D\t20"]
    for p in points:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", chr(p)).casefold())
        if folded != chr(p) and folded:
            rows.append(f"{p:X}\t" + " ".join(f"{ord(c):X}" for c in folded))
    return "\n".join(rows) + "\n"


def corpus():
    """Our captions, and the names in the manifest so that other words fall into sensible pieces."""
    rng = np.random.default_rng(7)
    objects = data.Objects()
    lines = [data.Scene(rng, objects).caption(rng) for _ in range(CAPTIONS)]
    return lines + sorted({r["caption"] for r in data.manifest(data.shared_folder())})


def train_pieces(folder, lines, count):
    """Trains sentencepiece's unigram model; returns its pieces with scores, and its character map."""
    rules = folder / "folding.tsv"
    rules.write_text(folding_rules())
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, model_type="unigram", vocab_size=count,
        normalization_rule_tsv=str(rules), pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>", character_coverage=1.0,
        hard_vocab_limit=False, num_threads=1, minloglevel=2)
    model = fields(out.getvalue())
    pieces = [fields(piece) for piece in model[1]]
    pieces = [[p[1][0].decode(), struct.unpack("<f", p[2][0])[0] if 2 in p else 0.0] for p in pieces]
    return pieces, fields(model[3][0])[2][0]


def fields(message):
    """A protocol buffer message as {field number: [values]}; nested messages stay bytes."""
    out, at = {}, 0
    while at < len(message):
        key, at = varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = varint(message, at)
        else:
            length, at = (4, at) if wire == 5 else (8, at) if wire == 1 else varint(message, at)
            value, at = message[at:at + length], at + length
        out.setdefault(number, []).append(value)
    return out


def varint(message, at):
    value = shift = 0
    while True:
        value |= (message[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 128:
            return value, at


def tokenizer_json(pieces, charsmap):
    """The tokenizers library's form of the same model."""
    special = [dict(id=i, content=c, single_word=False, lstrip=False, rstrip=False, normalized=False,
                    special=True) for i, c in enumerate(("<pad>", "</s>", "<unk>"))]
    space = dict(type="Metaspace", replacement="▁", prepend_scheme="always", split=True)
    fold = [dict(type="Precompiled", precompiled_charsmap=base64.b64encode(charsmap).decode()),
            dict(type="Replace", pattern=dict(Regex=" {2,}"), content=" "),
            dict(type="Strip", strip_left=True, strip_right=True)]
    text, end = dict(Sequence=dict(id="A", type_id=0)), dict(SpecialToken=dict(id="</s>", type_id=0))
    post = dict(type="TemplateProcessing", single=[text, end],
                pair=[text, end, dict(Sequence=dict(id="B", type_id=0)), end],
                special_tokens={"</s>": dict(id="</s>", ids=[1], tokens=["</s>"])})
    return dict(version="1.0", truncation=None, padding=None, added_tokens=special,
                normalizer=dict(type="Sequence", normalizers=fold), pre_tokenizer=space, post_processor=post,
                decoder=space, model=dict(type="Unigram", unk_id=2, vocab=pieces, byte_fallback=False))


def tokenizer(state, size=SMALL, name="tokenizer.json", lines=corpus):
    """The tokenizer, trained once on the texts that `lines` makes and kept in the state folder."""
    path = state / name
    if not path.exists():
        pieces = train_pieces(state, lines(), size.pieces)
        path.write_text(json.dumps(tokenizer_json(*pieces), ensure_ascii=False))
    return PreTrainedTokenizerFast(tokenizer_file=str(path), model_max_length=size.length, pad_token="<pad>",
                                   eos_token="</s>", unk_token="<unk>", padding_side="right",
                                   model_input_names=["input_ids", "attention_mask"])


def new_encoder(tok, size=SMALL):
    """Starts as the words alone: what its layers add is 0 at first."""
    rows = (len(tok) + 15) // 16 * 16
    config = UMT5Config(vocab_size=rows, d_model=size.width, d_kv=32, num_heads=size.heads, d_ff=size.inner,
                        num_layers=size.layers, num_decoder_layers=size.layers, relative_attention_num_buckets=16,
                        relative_attention_max_distance=32, dropout_rate=0.0, feed_forward_proj="gated-gelu",
                        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, tie_word_embeddings=True,
                        is_encoder_decoder=False, use_cache=False)
    encoder = UMT5EncoderModel(config)
    for name, weight in encoder.named_parameters():
        if name.endswith((".o.weight", ".wo.weight")):
            torch.nn.init.zeros_(weight)
    return encoder


def clean(prompt):
    """What WanPipeline does to a prompt first."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(prompt))).strip()


def tokens(tok, prompts):
    out = tok([clean(p) for p in prompts], padding="max_length", max_length=tok.model_max_length, truncation=True,
              return_tensors="pt")
    return out.input_ids, out.attention_mask


def embed(encoder, ids, mask):
    """[b, length, width], zero after each prompt's end; nothing is computed past the end of the longest."""
    used = int(mask.sum(1).max()) if mask.device.type == "cpu" else mask.shape[1]  # asking a GPU would wait for it
    x = encoder(input_ids=ids[:, :used], attention_mask=mask[:, :used]).last_hidden_state.float() * mask[:, :used, None]
    return torch.nn.functional.pad(x, (0, 0, 0, ids.shape[1] - used))
