#!/usr/bin/env python3
"""The peers of gpu.rs on the same device: transformers (SDPA) and sentence-transformers, on the same token ids.

    gpu_peers.py ceiling --device cuda:0 --dtype bfloat16
    gpu_peers.py transformers DIR --shape NAME --device D --dtype T --batch 16,64,256
    gpu_peers.py st           DIR --shape NAME --device D --dtype T --batch 16,64,256
    gpu_peers.py table DIR
    gpu_peers.py busy  ROOT

NAME is a shape of gpu.rs (random weights) or `smollm2` (that shape; what the weights are does not change the speed).
What a warm-up predicts to exceed the step's time (steps.py) is cut before it begins.
"""

import argparse
import json
import pathlib
import time

import steps

#         hidden, intermediate, layers, heads, kv heads, head width, vocabulary
SHAPES = {
    "smollm2": (576, 1536, 30, 9, 3, 64, 49152),
    "qwen3-0.6b": (1024, 3072, 28, 16, 8, 128, 151936),
    "qwen3-4b": (2560, 9728, 36, 32, 8, 128, 151936),
    "qwen3-8b": (4096, 12288, 36, 32, 8, 128, 151936),
    "tiny": (64, 160, 2, 4, 2, 16, 1000),
}


# Foretold before any run, tokens/s of 256 tokens each in bf16 with fused attention on an H200 (README.md).
FORETOLD = {"smollm2": 860_000, "qwen3-0.6b": 515_000, "qwen3-4b": 76_000, "qwen3-8b": 45_000}


def model_of(args):
    import torch
    from transformers import AutoModel, LlamaConfig, Qwen3Config

    hidden, middle, layers, heads, kv_heads, width, vocabulary = SHAPES[args.shape]
    kind = LlamaConfig if args.shape == "smollm2" else Qwen3Config
    config = kind(
        hidden_size=hidden, intermediate_size=middle, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=width, vocab_size=vocabulary, max_position_embeddings=512,
        pad_token_id=0, attn_implementation="sdpa", use_cache=False,
    )
    with torch.device(args.device):
        torch.set_default_dtype(getattr(torch, args.dtype))
        model = AutoModel.from_config(config).eval()
        torch.set_default_dtype(torch.float32)
    return model


def wait(device):
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


def pad(sequences):
    import torch

    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros(len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def measure(args, name, prepare):
    """The best of the batch sizes; what is out of memory is not a rate."""
    import torch

    budget, sets = steps.Budget(), []
    for path in sorted(pathlib.Path(args.dir).glob("*.ids.json")):
        which, sequences = path.name.removesuffix(".ids.json"), json.loads(path.read_text())
        tokens, tried = sum(map(len, sequences)), {}
        for size in map(int, args.batch.split(",")):
            run = prepare(size)

            def seconds(some):
                begun = time.perf_counter()
                run(some)
                wait(args.device)
                return time.perf_counter() - begun

            try:
                # The first call prepares a device, too, so that it says too much of a fast one: twice then.
                for _ in range(2):
                    expected = seconds(sequences[: 2 * size]) * len(sequences) / min(2 * size, len(sequences))
                    if expected <= budget.left():
                        break
                if budget.allows(f"{which} in batches of {size}", expected):
                    tried[size] = tokens / seconds(sequences)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        if tried:
            best = max(tried, key=tried.get)
            sets.append({"set": which, "tokens": tokens, "tokens_per_s": tried[best], "batch": best, "by_batch": tried})
    print(json.dumps({"runner": name, "torch": torch.__version__, "sets": sets}))


def transformers_run(args):
    import torch

    model = model_of(args)

    def prepare(size):
        @torch.inference_mode()
        def run(sequences):
            order = sorted(range(len(sequences)), key=lambda at: -len(sequences[at]))
            found = []
            for start in range(0, len(order), size):
                batch = pad([sequences[at] for at in order[start : start + size]])
                full = bool(batch["attention_mask"].all())
                batch = {key: value.to(args.device, non_blocking=True) for key, value in batch.items()}
                given = {"input_ids": batch["input_ids"]} if full else batch
                states = model(**given).last_hidden_state.float()
                weight = batch["attention_mask"].unsqueeze(-1).float()
                found.append((states * weight).sum(1) / weight.sum(1))
            return torch.cat(found).cpu()

        return run

    measure(args, "transformers SDPA", prepare)


def st_run(args):
    """Its own loop, sorting and pooling; a text is a line of token ids, so that its tokenizer costs it nothing."""
    import torch
    from sentence_transformers import SentenceTransformer, models

    model = model_of(args)

    class Ids(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def tokenize(self, texts, **_):
            return pad([list(map(int, text.split())) for text in texts])

        preprocess = tokenize

        def forward(self, features, **_):
            given = {key: features[key] for key in ("input_ids", "attention_mask")}
            features["token_embeddings"] = self.model(**given).last_hidden_state
            return features

    pooling = models.Pooling(model.config.hidden_size, pooling_mode="mean")
    st = SentenceTransformer(modules=[Ids(), pooling], device=args.device)

    def prepare(size):
        def run(sequences):
            texts = [" ".join(map(str, sequence)) for sequence in sequences]
            return st.encode(texts, batch_size=size, convert_to_numpy=True)

        return run

    measure(args, "sentence-transformers", prepare)


def ceiling(args):
    """Large products: operations a second, the best of several sizes."""
    import torch

    budget, best, unit = steps.Budget(), 0, 0.0
    for n in (512, 1024, 2048) if args.device == "cpu" else (1024, 4096, 8192, 16384):
        if not budget.allows(f"a product of {n}", 13 * unit * n**3):
            break
        a, b = (torch.randn(n, n, device=args.device).to(getattr(torch, args.dtype)) for _ in range(2))
        for _ in range(3):
            a @ b
        wait(args.device)
        begun = time.perf_counter()
        for _ in range(10):
            a @ b
        wait(args.device)
        unit = (time.perf_counter() - begun) / 10 / n**3
        best = max(best, 2 / unit)
    name = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "the processor"
    print(json.dumps({"device": name, "torch": torch.__version__, "dtype": args.dtype, "flops": best}))


def table(args):
    folder = pathlib.Path(args.dir)
    cuts, top = steps.cuts(folder), None
    if (folder / "ceiling.json").exists():
        top = json.loads((folder / "ceiling.json").read_text())
        print(f"{top['device']}, PyTorch {top['torch']}: {top['flops'] / 1e12:.2f} T operations/s in {top['dtype']} as a large product")
    for path in sorted(folder.glob("*.invariance.json")):
        found = json.loads(path.read_text())
        ways = ", ".join(f"{name} {least:.6f}" for name, least in found["least_cosine_to_serial"].items())
        print(f"{path.name.removesuffix('.json')}: {'passed' if found['passed'] else 'FAILED'}, least cosine to {found['batches']} batches one by one: {ways}")
    for path in sorted(folder.glob("*.parity.json")):
        found = json.loads(path.read_text())
        print(f"parity with f32 on the processor, {found['texts']} texts on {found['device']}:")
        for name, one in found["to_cpu_f32"].items():
            print(f"  {name:14}" + (f"skipped: {one['skipped']}" if "skipped" in one else
                  f"cosine at least {one['cosine_min']:.6f}, mean {one['cosine_mean']:.6f}"))
    lines = []
    for shape in SHAPES:
        runs = [json.loads(path.read_text()) for path in sorted((folder / shape).glob("*.json")) if ".ids." not in path.name]
        # What failed or had no time says only that.
        runs = [run for run in runs if "runner" in run]
        ours = next((run for run in runs if run["runner"] == "ours"), None)
        bound = top["flops"] / (2 * ours["linear_parameters"]) if top and ours else None
        if ours:
            print(f"\n{shape}, {ours['arithmetic']} on {ours['device']}{', flash-attn' if ours['flash_attn'] else ''}: loaded in "
                  f"{ours['load_s']:.1f} s" + (f"; the ceiling is {bound:,.0f} tokens/s" if bound else ""))
        runs.sort(key=lambda run: run is not ours)
        for which in dict.fromkeys(one["set"] for run in runs for one in run["sets"]):
            found = {run["runner"]: one for run in runs for one in run["sets"] if one["set"] == which and one["tokens_per_s"]}
            texts = [f"{one['texts']} texts" for one in found.values() if "texts" in one]
            tokens = [f"{one['tokens']:,} tokens" for one in found.values()]
            print(f"  {which}: " + ", ".join(texts[:1] + tokens[:1]))
            for runner, one in found.items():
                share = f" {one['tokens_per_s'] / bound:6.2f} of the ceiling" if bound else ""
                print(f"    {runner:22}{one['tokens_per_s']:14,.0f} tokens/s{share}   batch {one['batch']}")
                if runner == "ours" and which == "256" and shape in FORETOLD and ours["device"].startswith("cuda"):
                    lines.append(f"{shape} 256: {one['tokens_per_s'] / FORETOLD[shape]:.2f} of the {FORETOLD[shape]:,} tokens/s foretold")
                if runner != "ours" and "ours" in found:
                    lines.append(f"{shape} {which}: ours is {found['ours']['tokens_per_s'] / one['tokens_per_s']:.2f}x {runner}")
        for name, what in cuts:
            if name.startswith(f"{shape}/"):
                print(f"    {name.removesuffix('.json')}: {what}")
    print("\n" + "\n".join(lines))


def busy(args):
    """How much of a run's encode stage its device was busy."""
    (report,) = (json.loads(path.read_text()) for path in pathlib.Path(args.dir).glob("runs/*/report.json"))
    stage = next(stage["actual"] for stage in report["stages"] if stage["stage"] == "encode")
    print(f"a run of {stage['texts']} notes: the device was busy for {report['device_busy_seconds']:.1f} s of "
          f"{stage['seconds']:.1f} s of encoding")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (("ceiling", ceiling), ("transformers", transformers_run), ("st", st_run), ("table", table), ("busy", busy)):
        command = commands.add_parser(name)
        if name != "ceiling":
            command.add_argument("dir")
        command.add_argument("--device", default="cuda:0")
        command.add_argument("--dtype", default="bfloat16")
        command.add_argument("--shape", choices=SHAPES)
        command.add_argument("--batch", default="16,64,256")
        command.set_defaults(run=run)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
