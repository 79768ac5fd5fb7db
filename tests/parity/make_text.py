#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the text goldens: tokenizers trained with sentencepiece in several settings and what the tokenizers library
makes of text_strings.py's strings with them (text/*.json, *.ids), prompts as diffusers cleans them (text/clean.*), and umT5
encoders with random weights and what transformers computes with them (text/umt5-*).

    python make_text.py [ids] [clean] [umt5]      everything, or parts of it, into text/
    python make_text.py pack FOLDER OUT           OUT.ids and OUT.safetensors for a pack's tokenizer/ and text_encoder/
"""
import base64
import html
import json
import re
import struct
import sys
import tempfile
import unicodedata
from pathlib import Path

import text_strings

HERE = Path(__file__).parent / "text"


# ---- tokenizers ------------------------------------------------------------------------------------------------------

def rules(fold):
    """A small normalisation in sentencepiece's TSV: parts of NFKC with compositions, no controls, one kind of space."""
    table = {}
    for c in [*range(0xA0, 0x250), *range(0x370, 0x530), *range(0x1E00, 0x1F00), *range(0x2000, 0x2150),
              *range(0x2460, 0x2474),
              *range(0xFB00, 0xFB07), *range(0xFF01, 0xFFE7), 0x2126, 0x212A, 0x33A4, 0x338F, 0xFDFA]:
        s = unicodedata.normalize("NFKC", chr(c))
        if fold:
            s = s.lower()
        if s != chr(c):
            table[(c,)] = s
        decomposed = unicodedata.normalize("NFD", chr(c))
        if len(decomposed) > 1 and c < 0x250 and not fold:
            table[tuple(map(ord, decomposed))] = s
    if fold:
        table.update({(c,): chr(c).lower() for c in range(ord("A"), ord("Z") + 1)})
    for c in [*range(1, 9), 0xE, 0xF, *range(0x10, 0x20), 0x7F, 0xAD, 0x200B, 0x200E, 0xFEFF]:
        table[(c,)] = ""
    for c in [9, 10, 11, 12, 13, 0x85, 0xA0, 0x2000, 0x2003, 0x2028, 0x3000]:
        table[(c,)] = " "
    return "".join("%s\t%s\n" % (" ".join("%X" % c for c in key), " ".join("%X" % ord(c) for c in value))
                   for key, value in sorted(table.items()))


def train(name, folder, fold=None, **options):
    import sentencepiece
    lines = text_strings.corpus(name, 4000)
    if fold is not None:
        tsv = folder / (name + ".tsv")
        tsv.write_text(rules(fold))
        options["normalization_rule_tsv"] = str(tsv)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / name), model_type="unigram", num_threads=1,
        minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, **options)
    return folder / (name + ".model")


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def fields(data):
    """(field number, value) of a protocol buffer."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(kind)
            if size is None:
                size, at = varint(data, at)
            value, at = data[at:at + size], at + size
        yield key >> 3, value


def read_model(path):
    """Pieces with scores and the character map (b"" if there is none) of a sentencepiece model."""
    pieces, charsmap = [], b""
    for number, value in fields(path.read_bytes()):
        if number == 1:
            piece = dict(fields(value))
            pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0))
        elif number == 3:
            charsmap = dict(fields(value)).get(2, b"")
    return pieces, charsmap


def special(content, **flags):
    return dict(content=content, single_word=False, lstrip=False, rstrip=False, normalized=False,
                special=True) | flags


def tokenizer_json(pieces, normalizer, pre_tokenizer, added, byte_fallback=False, eos=True):
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    template = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}},
                                                         {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}},
                         {"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}}
    after = len(pieces)
    for token in added:
        if token["content"] not in ids:
            ids[token["content"]], after = after, after + 1
        token["id"] = ids[token["content"]]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": template if eos else None, "decoder": None,
            "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": byte_fallback}}


def precompiled(charsmap):
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}


def sequence(*steps, key="normalizers"):
    return {"type": "Sequence", key: list(steps)}


def metaspace(scheme, split=True, **more):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split} | more


def t5_layout(pieces, charsmap):
    """As transformers' converter for T5 writes it."""
    pieces = pieces + [("<extra_id_%d>" % i, 0.0) for i in range(9, -1, -1)]
    names = ["<pad>", "</s>", "<unk>"] + ["<extra_id_%d>" % i for i in range(9, -1, -1)]
    added = [special(name) for name in names]
    steps = ([precompiled(charsmap)] if charsmap else []) + [
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]
    return tokenizer_json(pieces, sequence(*steps), metaspace("always"), added)


def llama_layout(pieces, charsmap):
    """Spaces replaced by the normaliser, no pre-tokenizer, bytes for what is unknown."""
    added = [special("<unk>"), special("</s>", rstrip=True), special("<pad>", lstrip=True),
             special("red apple", special=False, normalized=True),
             special("new word", special=False, lstrip=True, rstrip=True)]
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    return tokenizer_json(pieces, sequence(*steps), None, added, byte_fallback=True, eos=False)


def first_layout(pieces, charsmap):
    added = [special(p) for p in ("<pad>", "</s>", "<unk>")]
    return tokenizer_json(pieces, precompiled(charsmap), metaspace("first", split=False), added, byte_fallback=True)


def raw_layout(pieces, charsmap):
    """No dummy prefix, all spaces kept, pieces across words."""
    added = [special(p) for p in ("<pad>", "</s>", "<unk>")]
    return tokenizer_json(pieces, None, metaspace("never", split=False, add_prefix_space=False), added)


def words_layout(pieces, charsmap):
    added = [special(p) for p in ("<pad>", "</s>", "<unk>")] + [special("Ａ b", special=False, normalized=True)]
    steps = [{"type": "Strip", "strip_left": True, "strip_right": True}, precompiled(charsmap)]
    before = sequence({"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁",
                                                    "add_prefix_space": True},
                      key="pretokenizers")
    return tokenizer_json(pieces, sequence(*steps), before, added)


TOKENIZERS = {
    "t5": (dict(fold=False, vocab_size=1300), t5_layout),
    "identity": (dict(normalization_rule_name="identity", vocab_size=700), t5_layout),
    "llama": (dict(normalization_rule_name="identity", vocab_size=900, byte_fallback=True), llama_layout),
    "first": (dict(fold=True, vocab_size=1100, byte_fallback=True, character_coverage=0.98), first_layout),
    "raw": (dict(normalization_rule_name="identity", vocab_size=600, add_dummy_prefix=False,
                 remove_extra_whitespaces=False,
                 split_by_whitespace=False), raw_layout),
    "words": (dict(fold=True, vocab_size=720, split_by_unicode_script=False), words_layout),
}


def write_strings(path, strings):
    path.write_bytes(b"".join(struct.pack("<H", len(s)) + s for s in (t.encode() for t in strings)))


def write_ids(path, rows):
    path.write_bytes(b"".join(struct.pack("<%dH" % (len(row) + 1), len(row), *row) for row in rows))


def simple(text):
    """Strings on which sentencepiece and the tokenizers library agree by construction: words of letters and marks, one
    space between them, neither of them normalised."""
    return re.fullmatch(r"\w+( \w+)*", text) and unicodedata.normalize("NFKC", text) == text


def make_ids():
    import sentencepiece
    import tokenizers
    strings = text_strings.strings(2000)
    write_strings(HERE / "strings.bin", strings)
    with tempfile.TemporaryDirectory() as scratch:
        for name, (options, layout) in TOKENIZERS.items():
            model = train(name, Path(scratch), **options)
            path = HERE / (name + ".json")
            path.write_text(json.dumps(layout(*read_model(model)), ensure_ascii=False))
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
            rows = [tokenizer.encode(s).ids for s in strings]
            write_ids(HERE / (name + ".ids"), rows)
            spm = sentencepiece.SentencePieceProcessor(model_file=str(model))
            end = [] if name == "llama" else [1]
            both = [(spm.encode(s) + end, row) for s, row in zip(strings, rows) if simple(s)]
            same = sum(a == b for a, b in both)
            print("%-9s %7d bytes, %5d pieces, sentencepiece agrees on %d of %d simple strings"
                  % (name, path.stat().st_size, tokenizer.get_vocab_size(), same, len(both)))


# ---- prompts ---------------------------------------------------------------------------------------------------------

def clean(text):
    """WanPipeline's prompt_clean without ftfy."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text)).strip()).strip()


def make_clean():
    names = sorted(html.entities.html5)
    prompts = [s for s in text_strings.strings(2000) if "&" in s or not s.isprintable()][:500]
    prompts = [p for p in prompts if "\0" not in p]
    for i in range(0, len(names), 100):
        some = names[i:i + 100]
        prompts.append(" ".join("&" + n for n in some))
        prompts.append("".join("&%sx" % n.rstrip(";") for n in some))
    prompts += ["&#%d;" % c for c in [*range(0, 300), 0xD800, 0xFDD0, 0xFFFE, 0xFFFF, 0x1F600, 0x1FFFF, 0x10FFFF,
                                      0x110000]]
    prompts += ["&#x%X" % c for c in [0, 1, 0xB, 0xD, 0x20, 0x85, 0x99, 0x2028, 0xDFFF, 0xFFFE, 0x10FFFE,
                                      0xFFFFFFFF]]
    prompts += ["&", "&;", "&&amp;", "&#", "&#;", "&#x", "&#x;", "&#xg", "&# 65;", "&amp", "&ampx", "&amp;lt;",
                "&amp;amp;lt;", "&am",
                "&a", "a&b", "&CounterClockwiseContourIntegral;", "&CounterClockwiseContourIntegral",
                "&" + "n" * 40 + ";",
                "&notin;&notinx;&noti", "&gt&lt", "&é;", "&#" + "9" * 100 + ";", "&#0000000000065;", "&" * 50,
                "\x1c a \x1f\x85b\u2003",
                "&nbsp; a &nbsp;&#10; b&#x3000;", "&NotEqualTilde;&nGt;&nvlt;", "&amp;#38;amp;"]
    write_strings(HERE / "clean.in", prompts)
    write_strings(HERE / "clean.out", [clean(p) for p in prompts])
    print(len(prompts), "prompts")


# ---- encoders --------------------------------------------------------------------------------------------------------

ENCODERS = {  # name: stored as, lengths of the cases, configuration
    "umt5-f32": ("float32", [1, 2, 7, 130], dict(d_model=40, num_heads=3, d_kv=16, num_layers=2, d_ff=72,
                                                 vocab_size=300)),
    "umt5-bf16": ("bfloat16", [1, 9, 67], dict(d_model=24, num_heads=2, d_kv=20, num_layers=3, d_ff=56,
                                               vocab_size=200,
                                               relative_attention_num_buckets=12,
                                               relative_attention_max_distance=40)),
    "umt5-f16": ("float16", [5, 33], dict(d_model=17, num_heads=5, d_kv=7, num_layers=1, d_ff=19, vocab_size=61,
                                          relative_attention_num_buckets=9, layer_norm_epsilon=1e-5)),
}


def nmse(a, b):
    return float(((a.double() - b.double()) ** 2).sum() / (b.double() ** 2).sum())


def run_encoder(model, ids):
    import torch
    with torch.no_grad():
        return model(input_ids=ids[None].long()).last_hidden_state[0]


def check_padding(model, ids):
    """What the pipeline does, padding and a mask, gives the same as the tokens alone."""
    import torch
    padded = torch.zeros(1, len(ids) + 21, dtype=torch.long)
    padded[0, :len(ids)] = ids
    mask = (torch.arange(padded.shape[1]) < len(ids)).long()[None]
    with torch.no_grad():
        out = model(input_ids=padded, attention_mask=mask).last_hidden_state[0, :len(ids)]
    error = nmse(out, run_encoder(model, ids))
    assert error < 1e-12, error
    return error


def make_umt5():
    import torch
    from safetensors.torch import save_file
    from transformers import UMT5Config, UMT5EncoderModel
    torch.set_num_threads(1)
    for name, (stored, lengths, config) in ENCODERS.items():
        torch.manual_seed(len(name))
        model = UMT5EncoderModel(UMT5Config(**config)).eval()
        for key, p in model.named_parameters():
            fan_in = 1 if p.ndim == 1 or "embed" in key or "shared" in key or "bias" in key else p.shape[1]
            p.data.normal_(0, fan_in ** -0.5)
            if p.ndim == 1:
                p.data.mul_(0.1).add_(1)
            p.data = p.data.to(getattr(torch, stored)).float()
        folder = HERE / name
        model.save_pretrained(folder)
        weights = {k: v.to(getattr(torch, stored)).contiguous() for k, v in model.state_dict().items()}
        weights.pop("encoder.embed_tokens.weight")
        if name == "umt5-f16":  # the other name of the table
            weights["encoder.embed_tokens.weight"] = weights.pop("shared.weight")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        cases = {}
        for n in lengths:
            ids = torch.randint(0, config["vocab_size"], (n,), dtype=torch.int32)
            cases["ids.%d" % n] = ids
            cases["embeds.%d" % n] = run_encoder(model, ids).contiguous()
            print("%s %d tokens, padded and masked: NMSE %.1e" % (name, n, check_padding(model, ids)))
        save_file(cases, folder / "cases.safetensors")


# ---- a pack of one's own ---------------------------------------------------------------------------------------------

def make_pack(folder, out):
    """Token ids of all strings, and the embeddings of some prompts with the weights as stored, widened to f32."""
    import tokenizers
    import torch
    from safetensors.torch import save_file
    from transformers import UMT5EncoderModel
    torch.set_num_threads(1)
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder, "tokenizer", "tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    write_ids(Path(out + ".ids"), [tokenizer.encode(s).ids for s in text_strings.strings(2000)])
    if not Path(folder, "text_encoder").is_dir():
        return
    model = UMT5EncoderModel.from_pretrained(str(Path(folder, "text_encoder")), torch_dtype=torch.float32).eval()
    cases = {}
    for prompt in ["", *text_strings.PLAIN.split("|"), " ".join(text_strings.PLAIN.split("|") * 6)]:
        ids = torch.tensor(tokenizer.encode(clean(prompt)).ids, dtype=torch.int32)
        cases["ids.%d" % len(ids)] = ids
        cases["embeds.%d" % len(ids)] = run_encoder(model, ids).contiguous()
        print("%d tokens, padded and masked: NMSE %.1e" % (len(ids), check_padding(model, ids)))
    save_file(cases, out + ".safetensors")


def main():
    parts = {"ids": make_ids, "clean": make_clean, "umt5": make_umt5}
    if sys.argv[1:2] == ["pack"]:
        return make_pack(sys.argv[2], sys.argv[3])
    HERE.mkdir(exist_ok=True)
    for name in sys.argv[1:] or parts:
        parts[name]()


if __name__ == "__main__":
    main()
