# SPDX-License-Identifier: MIT
"""examples/convert.py on small pickles under the original names, beside the two-layer pack and diffusers' own renaming."""

import contextlib
import io
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACK = ROOT / "tests" / "packs" / "two-layer"
SCRIPT = ROOT / "examples" / "convert.py"

try:
    import torch
except ImportError:
    torch = None
try:
    from diffusers.loaders import single_file_utils
except ImportError:
    single_file_utils = None

# Original names from those of diffusers, written down from the original models, not from the script under test.
BLOCK = {"norm2": "norm3", "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2", "to_out.0": "o", "to_q": "q", "to_k": "k", "to_v": "v",
         "attn1": "self_attn", "attn2": "cross_attn", "scale_shift_table": "modulation"}
OUTER = {"condition_embedder.time_embedder.linear_": "time_embedding.", "condition_embedder.text_embedder.linear_":
         "text_embedding.", "condition_embedder.time_proj": "time_projection.1", "proj_out": "head.head"}
T5 = {"layer.0.layer_norm": "norm1", "layer.1.layer_norm": "norm2", "layer.0.SelfAttention.relative_attention_bias":
      "pos_embedding.embedding", "layer.0.SelfAttention": "attn", "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
      "layer.1.DenseReluDense.wi_1": "ffn.fc1", "layer.1.DenseReluDense.wo": "ffn.fc2"}
RESNET = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6", "conv_shortcut": "shortcut"}


def swap(name, table):
    for new, old in table.items():
        name = re.sub(rf"(?<![\w]){re.escape(new)}", old, name)
    return name


def transformer_name(name):
    if name.startswith("blocks."):
        return swap(name, BLOCK)
    if name == "scale_shift_table":
        return "head.modulation"
    name = swap(name, OUTER)
    return re.sub(r"_embedding\.([12])", lambda m: f"_embedding.{2 * int(m[1]) - 2}", name)


def text_name(name):
    fixed = {"shared.weight": "token_embedding.weight", "encoder.final_layer_norm.weight": "norm.weight"}
    return fixed.get(name) or swap(name.replace("encoder.block.", "blocks."), T5)


def vae_name(name):
    side, _, rest = name.partition(".")
    if side in ("quant_conv", "post_quant_conv"):
        return name.replace("post_quant_conv", "conv2").replace("quant_conv", "conv1")
    rest = rest.replace("conv_in", "conv1").replace("norm_out", "head.0").replace("conv_out", "head.2")
    rest = rest.replace("mid_block.attentions.0", "middle.1")
    rest = re.sub(r"mid_block\.resnets\.(\d)\.", lambda m: f"middle.{2 * int(m[1])}.", rest)
    rest = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"upsamples.{4 * int(m[1]) + int(m[2])}", rest)
    rest = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"upsamples.{4 * int(m[1]) + 3}", rest)
    rest = rest.replace("down_blocks", "downsamples")
    if re.match(r"(middle\.[02]|downsamples|upsamples)", rest):
        rest = swap(rest, RESNET)
    return side + "." + rest


def residual_vae_name(name):
    """Of Wan 2.2's VAE, whose levels are lists within lists."""
    name = re.sub(r"\.(down|up)_blocks\.(\d)\.resnets\.", lambda m: f".{m[1]}samples.{m[2]}.{m[1]}samples.", name)
    name = re.sub(r"\.(down|up)_blocks\.(\d)\.(?:down|up)sampler\.",
                  lambda m: f".{m[1]}samples.{m[2]}.{m[1]}samples.{2 if m[1] == 'down' else 3}.", name)
    return vae_name(name)


def read(path):
    """name: tensor of a safetensors file."""
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    types = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    return {name: torch.frombuffer(bytearray(data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]]),
                                   dtype=types[t["dtype"]]).reshape(t["shape"])
            for name, t in json.loads(data[8:8 + size]).items() if name != "__metadata__"}


def four_levels(published):
    """The original's number of levels, of a VAE that has three: the last again behind another change of size."""
    again = ((r"(encoder\.down_blocks)\.([567])\.", 3), (r"(decoder\.up_blocks)\.(1)\.upsamplers\.", 1),
             (r"(decoder\.up_blocks)\.(2)\.resnets\.", 1))
    more = {}
    for name, tensor in published.items():
        for pattern, further in again:
            if re.match(pattern, name):
                other = re.sub(r"blocks\.(\d)", lambda m: f"blocks.{int(m[1]) + further}", name)
                more[other] = tensor + 1
    return published | more


# The VAE has the original's two residual blocks a level.
STAGES = {"transformer": (PACK / "transformer/diffusion_pytorch_model.safetensors", transformer_name),
          "text": (PACK / "text_encoder/model.safetensors", text_name),
          "vae": (ROOT / "tests/parity/vae/bf16/diffusion_pytorch_model.safetensors", vae_name)}


@unittest.skipIf(torch is None, "no PyTorch here")
class Convert(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.pickle = os.path.join(self.folder.name, "original.pth")
        self.out = os.path.join(self.folder.name, "sub", "out.safetensors")

    def run_script(self, content):
        torch.save(content, self.pickle)
        return subprocess.run([sys.executable, SCRIPT, self.pickle, self.out], capture_output=True, text=True)

    def original(self, stage):
        path, rename = STAGES[stage]
        published = read(path)
        if stage == "vae":
            published = four_levels(published)
        published.pop("encoder.embed_tokens.weight", None)
        original = {rename(name): tensor for name, tensor in published.items()}
        self.assertEqual(len(original), len(published))
        return original, published

    def same(self, published):
        made = read(self.out)
        self.assertEqual(sorted(made), sorted(published))
        for name, tensor in published.items():
            self.assertTrue(made[name].dtype == tensor.dtype and torch.equal(made[name], tensor), name)

    def test_each_stage(self):
        for stage in STAGES:
            original, published = self.original(stage)
            done = self.run_script(original)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.same(published)

    def test_safetensors_in_parts(self):
        """Original names in safetensors, as Wan's transformers come, a model in two files."""
        sys.path.insert(0, str(SCRIPT.parent))
        import convert
        original, published = self.original("transformer")
        parts = [os.path.join(self.folder.name, f"part-{k}.safetensors") for k in (1, 2)]
        names = sorted(original)
        for k, path in enumerate(parts):
            convert.write(path, {name: original[name] for name in names[k::2]})
        run = [sys.executable, SCRIPT, *parts]
        done = subprocess.run([*run, self.out], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.same(published)
        os.unlink(self.out)
        for arguments, words in (([*run, parts[0]], "one of the files to read"), ([*run, parts[0], self.out], "once more")):
            done = subprocess.run(arguments, capture_output=True, text=True)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(words, done.stderr)
        for broken in (b"", b"abc", struct.pack("<Q", 1 << 60), struct.pack("<Q", 2) + b"{}"[:1], struct.pack("<Q", 9) + b'{"a":{}} ',
                       struct.pack("<Q", 2) + b"[]"):
            pathlib.Path(parts[0]).write_bytes(broken)
            done = subprocess.run([*run, self.out], capture_output=True, text=True)
            self.assertNotEqual(done.returncode, 0)
            self.assertTrue("not read" in done.stderr and "Traceback" not in done.stderr, done.stderr)
        self.assertFalse(os.path.exists(self.out))

    @unittest.skipIf(single_file_utils is None, "no diffusers here")
    def test_diffusers_renames_alike(self):
        for stage, function in (("transformer", single_file_utils.convert_wan_transformer_to_diffusers),
                                ("vae", single_file_utils.convert_wan_vae_to_diffusers)):
            original, published = self.original(stage)
            self.assertEqual(sorted(function(dict(original))), sorted(published))

    def test_wrapped_by_training(self):
        original, published = self.original("transformer")
        wrapped = {"model._fsdp_wrapped_module." + name: tensor for name, tensor in original.items()}
        other = {name: torch.zeros_like(tensor) for name, tensor in wrapped.items()}
        self.assertEqual(self.run_script({"generator": other, "generator_ema": wrapped, "step": 3}).returncode, 0)
        self.same(published)

    def refused(self, content, words):
        done = self.run_script(content)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(words, done.stderr)
        self.assertFalse(os.path.exists(self.out))

    def test_refused(self):
        original, _ = self.original("vae")
        self.refused(dict(original, **{"decoder.planted.weight": torch.zeros(1)}), "decoder.planted.weight")
        self.refused({"some.weight": torch.zeros(1)}, "some.weight")
        self.refused(dict(original, **{"conv1.bias": torch.zeros(1, dtype=torch.int64)}), "torch.int64")
        self.refused([1, 2], "no dictionary of tensors")
        self.refused({"decoder.head.0.gamma": torch.zeros(1), "encoder.downsamples.0.downsamples.0.residual.0.gamma": torch.zeros(1)},
                     "encoder.downsamples.0.downsamples.0.residual.0.gamma")

    def run_here(self, *arguments):
        """What the script ends with, in this process, which has PyTorch already."""
        sys.path.insert(0, str(SCRIPT.parent))
        import convert
        told, before, sys.argv = io.StringIO(), sys.argv, ["convert.py", *map(str, arguments)]
        try:
            with contextlib.redirect_stdout(told):
                convert.main()
        except SystemExit as end:
            return str(end.code)
        finally:
            sys.argv = before
        return told.getvalue()

    def made_here(self, content):
        torch.save(content, self.pickle)
        return self.run_here(self.pickle, self.out)

    def test_other_models_are_told(self):
        original, _ = self.original("transformer")
        wide = torch.zeros(28, 36, 1, 2, 2, dtype=torch.bfloat16)
        one = torch.zeros(2, 2)
        for more, words in (({"blocks.0.cross_attn.k_img.weight": one}, "I2V"), ({"img_emb.proj.0.weight": one}, "I2V"),
                            ({"patch_embedding.weight": wide}, "takes 36 channels and gives 16"),
                            ({"vace_blocks.0.after_proj.bias": one}, "VACE"),
                            ({"face_adapter.fuser_blocks.0.k_norm.weight": one}, "Animate"),
                            ({"text_encoders.umt5xxl.transformer.shared.weight": one}, "several models in one file")):
            self.assertIn(words, self.made_here(original | more))
        half = {name: tensor for name, tensor in original.items() if name.startswith("blocks.1.") or not name.startswith("blocks.")}
        self.assertIn("of block 0 0 of", self.made_here(half))
        del half["head.modulation"]
        self.assertIn("of a model in several files all are given at once", self.made_here(half))
        self.assertIn("LoRA", self.made_here({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": one}))
        self.assertIn("Ovi", self.made_here({"video_model.head.modulation": one, "audio_model.head.modulation": one}))
        self.assertFalse(os.path.exists(self.out))

    def test_of_comfyui(self):
        """Prefixes, 8-bit floats with and without scales, and what stands beside them."""
        original, published = self.original("transformer")
        prefix = "model.diffusion_model."
        names = [name for name in original if name.endswith(("ffn.0.weight", "self_attn.q.weight", "cross_attn.o.weight"))]
        for weight, given, row_wise in (("scale_weight", "scale_input", False), ("weight_scale", "input_scale", True)):
            content, expected = {prefix + name: tensor for name, tensor in original.items()}, dict(published)
            for name in names:
                rows = original[name].float()
                scale = (rows.abs().amax(1, keepdim=True) if row_wise else rows.abs().max()) / 448
                small = (rows / scale).to(torch.float8_e4m3fn)
                base = prefix + name.removesuffix("weight")
                content |= {base + "weight": small, base + weight: scale, base + given: torch.ones(())}
                if row_wise:
                    content[base + "comfy_quant"] = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
                new = next(n for n in published if transformer_name(n) == name)
                expected[new] = (small.double() * scale.double()).to(torch.bfloat16)
            plain = "patch_embedding.weight"
            content[prefix + plain] = original[plain].to(torch.float8_e5m2)
            expected[plain] = original[plain].to(torch.float8_e5m2).to(torch.bfloat16)
            content[prefix + "scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
            self.assertIn("tensors of a transformer", self.made_here(content))
            self.same(expected)
        content[prefix + names[0].removesuffix("weight") + "comfy_quant"] = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
        os.unlink(self.out)
        self.assertIn("nvfp4", self.made_here(content))
        content = {k: v for k, v in content.items() if not k.endswith("comfy_quant")}
        without = {k: v for k, v in content.items() if k != prefix + names[0]}
        self.assertIn("a scale of it, but not the tensor itself", self.made_here(without))
        scale = prefix + names[0].removesuffix("weight") + "weight_scale"
        self.assertIn("one for all or one a row is known", self.made_here(content | {scale: torch.ones(3)}))
        self.assertIn("is bfloat16 with a scale", self.made_here(content | {prefix + names[0]: original[names[0]]}))
        self.assertFalse(os.path.exists(self.out))

    def test_diffusers_names_in_8_bits(self):
        """From safetensors, whose markers may be empty; ComfyUI's umT5 has transformers' names."""
        from safetensors.torch import save_file
        published = read(STAGES["text"][0])
        published.pop("encoder.embed_tokens.weight", None)
        path = os.path.join(self.folder.name, "umt5_xxl_fp8_e4m3fn_scaled.safetensors")
        eight = "encoder.block.0.layer.1.DenseReluDense.wi_0."
        scale = torch.tensor(0.25)
        small = published[eight + "weight"].float().div(scale).to(torch.float8_e4m3fn)
        save_file(published | {eight + "weight": small, eight + "scale_weight": scale,
                               "scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn),
                               "spiece_model": torch.zeros(7, dtype=torch.uint8)}, path)
        self.assertIn("tensors of a text encoder", self.run_here(path, self.out))
        self.same(published | {eight + "weight": (small.float() * scale).to(torch.bfloat16)})

    @unittest.skipIf(single_file_utils is None, "no diffusers here")
    def test_vae_of_wan_2_2(self):
        """The original's names of a residual VAE, and the pack that comes out decodes as diffusers' model does."""
        from diffusers import AutoencoderKLWan
        torch.manual_seed(1)
        vae = AutoencoderKLWan(base_dim=4, decoder_base_dim=4, z_dim=4, is_residual=True, in_channels=12, out_channels=12, patch_size=2,
                               scale_factor_spatial=16, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
        published = vae.state_dict()
        original = {residual_vae_name(name): tensor for name, tensor in published.items()}
        self.assertEqual(len(original), len(published))
        for known in ("encoder.downsamples.1.downsamples.2.time_conv.weight", "encoder.downsamples.3.downsamples.1.residual.6.bias",
                      "encoder.downsamples.1.downsamples.0.shortcut.weight", "decoder.upsamples.0.upsamples.3.resample.1.weight",
                      "decoder.upsamples.3.upsamples.2.residual.0.gamma", "decoder.middle.1.to_qkv.weight", "conv2.bias"):
            self.assertIn(known, original)
        self.assertIn("tensors of a VAE of Wan 2.2", self.made_here(original))
        self.same(published)
        pack = pathlib.Path(self.folder.name) / "pack"
        (pack / "vae").mkdir(parents=True)
        config = dict(vae.config, _class_name="AutoencoderKLWan", clip_output=False)
        (pack / "vae" / "config.json").write_text(json.dumps(config))
        os.rename(self.out, pack / "vae" / "diffusion_pytorch_model.safetensors")
        again = AutoencoderKLWan.from_pretrained(pack / "vae")
        self.assertTrue(all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in published.items()))
        program = os.environ.get("IMAGINE_PROGRAM", ROOT / "build" / "examples" / "imagine")
        latents, frames = os.path.join(self.folder.name, "latents.safetensors"), os.path.join(self.folder.name, "frames.safetensors")
        values = torch.randn(1, 4, 2, 3, 2)
        from safetensors.torch import load_file, save_file
        save_file({"latents": values[0]}, latents)
        done = subprocess.run([program, "decode", latents, "--model", pack, "--out", frames], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        with torch.no_grad():
            wanted = vae.decode(values).sample[0]
        made = next(iter(load_file(frames).values()))
        self.assertEqual(made.shape, wanted.shape)
        self.assertLess(((made - wanted) ** 2).mean() / (wanted ** 2).mean(), 1e-10)

    def test_what_is_there_is_kept(self):
        """Of names without one to write the last is not overwritten, unless it is what the script has written before."""
        original, published = self.original("transformer")
        sys.path.insert(0, str(SCRIPT.parent))
        import convert
        first, second = (os.path.join(self.folder.name, name) for name in ("a.safetensors", "b.safetensors"))
        names = sorted(original)
        convert.write(first, {name: original[name] for name in names[::2]})
        convert.write(second, {name: original[name] for name in names[1::2]})
        before = pathlib.Path(second).read_bytes()
        for arguments, words in (([first, second], "not of this script's making"), ([first, self.folder.name], "is a folder"),
                                 ([first, "x.pth"], "does not end in .safetensors"), ([first + "x", self.out], "No such file")):
            self.assertIn(words, self.run_here(*arguments))
        self.assertEqual(pathlib.Path(second).read_bytes(), before)

    def test_what_downloads_leave(self):
        for begin, words in ((b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"), (b"GGUF\3\0\0\0", "GGUF"),
                             (b"\n<!DOCTYPE html>", "web page"), (bytes(100), "zeros"), (b"", "empty"), (b"PK\3\4....", "")):
            for ending in (".pth", ".safetensors"):
                path = os.path.join(self.folder.name, "weights" + ending)
                pathlib.Path(path).write_bytes(begin)
                told = self.run_here(path, self.out)
                self.assertTrue("not read" in told and words in told, told)
        whole = pathlib.Path(STAGES["transformer"][0]).read_bytes()
        for size, words in ((len(whole) - 1, f"it has {len(whole) - 1} of {len(whole)} bytes"), (100, "its header alone would take")):
            pathlib.Path(path).write_bytes(whole[:size])
            self.assertIn(words, self.run_here(path, self.out))

    def test_what_is_not_whole_is_not_left_behind(self):
        os.mkdir(self.out.removesuffix("/out.safetensors"))
        done = subprocess.run(["sh", "-c", 'ulimit -f 8; exec "$@"', "sh", sys.executable, "-c", "import signal, sys\n"
                               "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
                               f"sys.path.insert(0, {os.path.dirname(SCRIPT)!r})\n"
                               "import convert, torch\n"
                               f"convert.write({self.out!r}, {{'a': torch.zeros(100000)}})"], capture_output=True, text=True)
        self.assertIn("File too large", done.stderr)
        self.assertEqual(os.listdir(os.path.dirname(self.out)), [])

    def test_code_in_a_pickle_is_not_run(self):
        marker = os.path.join(self.folder.name, "ran")

        class Evil:
            def __reduce__(self):
                return os.system, (f"touch {marker}",)

        self.refused({"x": Evil()}, "not read")
        self.assertFalse(os.path.exists(marker))


class Refusal(unittest.TestCase):
    def test_the_library_names_the_script(self):
        with tempfile.TemporaryDirectory() as folder:
            vae = pathlib.Path(folder) / "vae"
            vae.mkdir()
            (vae / "config.json").write_text((PACK / "vae" / "config.json").read_text())
            (vae / "Wan2.1_VAE.pth").write_bytes(b"pickle")
            program = os.environ.get("IMAGINE_PROGRAM", ROOT / "build" / "examples" / "imagine")
            done = subprocess.run([program, "info", "--model", folder], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("Wan2.1_VAE.pth", done.stderr)
        self.assertIn("examples/convert.py", done.stderr)


if __name__ == "__main__":
    unittest.main()
