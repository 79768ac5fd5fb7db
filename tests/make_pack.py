# SPDX-License-Identifier: MIT
"""A whole model pack with random weights and two layers, small enough to commit: what the API tests run on.

    python tests/make_pack.py            writes tests/packs/two-layer (PyTorch, diffusers and transformers)

It is in the layout that diffusers' WanPipeline.from_pretrained reads.
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

HERE = Path(__file__).parent
TEXT_DIM = 16
WORDS = "a an the red green blue yellow apple dog car house moving to left right on in with background and".split()


def tokenizer():
    """Every printable ASCII character, and some words that are worth more than their letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(chr(c), -8.0 - (c % 7) / 8) for c in range(33, 127)]
    pieces += [("▁" + w, -4.0 - i / 16) for i, w in enumerate(WORDS)]
    tok = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tok.normalizer = normalizers.Sequence([normalizers.Strip(left=False, right=True)])
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tok.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>",
                                                       special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
                                   model_max_length=24, model_input_names=["input_ids", "attention_mask"])


def randomize(model, seed):
    """Every weight large enough to matter, and rounded to bf16, which is how it is stored."""
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=gen)
            if name.endswith("gamma") or ("norm" in name and name.endswith("weight")):
                p.copy_(1 + 0.2 * noise)
            elif p.ndim >= 2 and "scale_shift" not in name:
                p.copy_(noise / p[0].numel() ** 0.5)
            else:
                p.copy_(0.2 * noise)
    return model.to(torch.bfloat16)


def strip_metadata(path):
    """The same tensors in a file that does not depend on the library's version."""
    tensors = load_file(path)
    save_file(tensors, path, metadata={"format": "pt"})


def main():
    out = HERE / "packs" / "two-layer"
    shutil.rmtree(out, ignore_errors=True)
    tok = tokenizer()
    tok.save_pretrained(out / "tokenizer")
    rows = (len(tok) + 15) // 16 * 16
    text = UMT5EncoderModel(UMT5Config(
        vocab_size=rows, d_model=TEXT_DIM, d_kv=6, num_heads=3, d_ff=20, num_layers=2, num_decoder_layers=2,
        relative_attention_num_buckets=8, relative_attention_max_distance=20, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        is_encoder_decoder=False, use_cache=False))
    randomize(text, 1).save_pretrained(out / "text_encoder")
    dit = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=14, in_channels=16, out_channels=16,
        text_dim=TEXT_DIM, freq_dim=18, ffn_dim=36, num_layers=2, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", eps=1e-6, rope_max_seq_len=64)
    randomize(dit, 2).save_pretrained(out / "transformer")
    vae = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1, attn_scales=[],
                           temperal_downsample=[False, True, True], dropout=0.0)
    randomize(vae, 3).save_pretrained(out / "vae")
    UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0,
                            num_train_timesteps=1000).save_pretrained(out / "scheduler")
    for path in out.rglob("*.safetensors"):
        strip_metadata(path)
    (out / "model_index.json").write_text(json.dumps({
        "_class_name": "WanPipeline", "_diffusers_version": "0.35.0",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"]}, indent=2) + "\n")
    (out / "imagine.json").write_text(json.dumps({
        "width": 32, "height": 32, "frames": 5, "fps": 8, "steps": 4, "guidance": 3, "text_length": 24}, indent=2) + "\n")
    for path in out.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


if __name__ == "__main__":
    main()
