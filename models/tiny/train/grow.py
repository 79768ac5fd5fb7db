# SPDX-License-Identifier: MIT
"""The 128x128 model's transformer and text encoder, grown from the 64x64 model's.

The transformer begins as the function that it was: more channels of the latents are read by small weights and predicted as 0, new
blocks add 0, the feed-forward networks' new units too. The new text encoder is larger and has a vocabulary of its own: every piece begins
as what the old encoder made of its letters, for Japanese names as what it made of the English one.
"""

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

import objects
import text

BLOCKS = {0: 0, 1: 1, 3: 2, 5: 3}  # of the new ones, those that are old
QUIET = 0.25  # of the usual size of random weights
OLD_Z = 16


def embedded(w, new, scale=1.0):
    """An old weight in the first rows and columns of a new one."""
    out = new.clone()
    out[tuple(slice(n) for n in w.shape)] = w * scale
    return out


@torch.no_grad()
def transformer(dit, folder, scale=None, offset=None):
    """Makes a fresh `dit` what the one in a pack's `folder` is. Where latents are normalised in another way, an old channel's
    value is `scale` times the new one and `offset`; of noisy latents that holds for what is seen and not for the noise's share."""
    old = WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32).state_dict()
    fresh = dit.state_dict()
    out = {}
    for name, new in fresh.items():
        part, _, rest = name.partition(".")
        if part == "blocks":
            number, _, rest = rest.partition(".")
            out[name] = block(rest, new, old.get(f"blocks.{BLOCKS.get(int(number))}.{rest}"))
        elif name == "patch_embedding.weight":
            out[name] = embedded(old[name], QUIET * new)
        elif part == "proj_out":  # [patch * channels, ...]: channels vary fastest
            w = old[name].unflatten(0, (-1, OLD_Z))
            grown = torch.zeros_like(new).unflatten(0, (w.shape[0], -1))
            grown[:, :OLD_Z] = w
            out[name] = grown.flatten(0, 1)
        elif "text_embedder.linear_1.weight" in name:
            out[name] = embedded(old[name], QUIET * new)
        else:
            out[name] = old[name].clone()
    if scale is not None:
        out["patch_embedding.weight"][:, :OLD_Z] *= scale.view(1, -1, 1, 1, 1)
        for name, more in (("proj_out.weight", 0), ("proj_out.bias", offset)):
            rows = out[name].unflatten(0, (-1, dit.config.out_channels))[:, :OLD_Z]
            rows += more
            rows /= scale.view(1, -1, *[1] * (rows.ndim - 2))
    dit.load_state_dict(out)


def finer(weights, channels):
    """Weights of a model with a token for every latent, of those of one with a token for several, which see a patch as its mean and predict
    what they would on the average of its places. Not the same function: there are more tokens, farther apart."""
    read, out = weights["dit.patch_embedding.weight"], dict(weights)
    if read[0, 0].numel() > 1:
        out["dit.patch_embedding.weight"] = read.sum((2, 3, 4), keepdim=True)
        for name in ("dit.proj_out.weight", "dit.proj_out.bias"):  # [patch * channels, ...]: channels vary fastest
            out[name] = weights[name].unflatten(0, (-1, channels)).mean(0)
    return out


def block(name, new, w):
    if w is None:  # a new block adds nothing at first
        silent = name.startswith(("attn1.to_out", "attn2.to_out", "ffn.net.2"))
        return torch.zeros_like(new) if silent else new.clone()
    if name == "ffn.net.2.weight":
        return embedded(w, torch.zeros_like(new))
    return embedded(w, new) if w.shape != new.shape else w.clone()


@torch.no_grad()
def encoder(new, tok, dit, folder):
    """Gives every piece's vector of a `new` encoder what the old one made of its letters, and `dit`, grown before, the scale of that."""
    old = UMT5EncoderModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32).eval()
    old_tok = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    japanese = {name: c.name for c in objects.Catalogue().core for name in c.japanese}
    table, sizes, known = new.shared.weight, [], 0
    torch.nn.init.normal_(table)
    for piece, number in tok.get_vocab().items():
        word = piece.replace("▁", " ").strip()
        ids = old_tok(japanese.get(word, word)).input_ids
        if len(ids) < 2 or old_tok.unk_token_id in ids or number < 3 or not word:
            continue
        meaning = old(input_ids=torch.tensor([ids])).last_hidden_state[0, :-1].mean(0)
        sizes.append(meaning.norm())
        table[number] *= QUIET
        table[number, :len(meaning)] = meaning * (table.shape[1] ** 0.5 / meaning.norm())
        known += 1
    width = old.config.d_model
    dit.condition_embedder.text_embedder.linear_1.weight[:, :width] *= torch.stack(sizes).mean() / table.shape[1] ** 0.5
    return known


def model(model, tok, folder, mean, std):
    """`mean` and `std`: what the new model's latents are normalised with."""
    small = AutoencoderKLWan.load_config(folder / "vae")
    old_mean, old_std = (torch.tensor(small[key]) for key in ("latents_mean", "latents_std"))
    transformer(model.dit, folder, std[:OLD_Z] / old_std, (mean[:OLD_Z] - old_mean) / old_std)
    known = encoder(model.encoder, tok, model.dit, folder)
    print(f"{folder}: grown; {known} of {len(tok)} pieces begin as the old encoder's words", flush=True)
