#!/usr/bin/env python3
"""The peers of encode.rs: writes the texts, runs PyTorch transformers on the same token ids, prints the table.

    encode_peers.py texts  --notes N --cwe FILE.csv --stackexchange FILE.jsonl OUT.jsonl
    encode_peers.py torch  MODEL.gguf DIR --dtype float32|bfloat16 --batch 8,32 [--threads N]
    encode_peers.py table  DIR
"""

import argparse
import csv
import json
import pathlib
import resource
import time


def texts(args):
    with open(args.out, "w") as out:
        if args.cwe:
            # The catalogue's rows end in a comma that its header lacks.
            rows = list(csv.reader(open(args.cwe, newline="")))[1:]
            for row in rows[:: max(1, len(rows) // args.notes)][: args.notes]:
                text = "\n".join(field for field in (row[1], row[4], row[5]) if field)
                out.write(json.dumps({"set": "cwe", "text": text}) + "\n")
        if args.stackexchange:
            rows = [json.loads(line) for line in open(args.stackexchange)]
            for row in rows[:: max(1, len(rows) // args.notes)][: args.notes]:
                text = f"{row['title']}\n{row['text']}\n{' '.join(row['topics'])}"
                out.write(json.dumps({"set": "stackexchange", "text": text}) + "\n")


def torch_run(args):
    import torch
    from transformers import AutoModelForCausalLM

    if args.threads:
        torch.set_num_threads(args.threads)
    path = pathlib.Path(args.model)
    dtype = getattr(torch, args.dtype)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    model = model.model.eval()
    folder = pathlib.Path(args.dir)
    results = []
    for ids_path in sorted(folder.glob("*.ids.json")):
        name = ids_path.name.removesuffix(".ids.json")
        sequences = json.loads(ids_path.read_text())
        order = sorted(range(len(sequences)), key=lambda at: -len(sequences[at]))
        tokens = sum(map(len, sequences))
        tried = {}
        for size in map(int, args.batch.split(",")):
            vectors = torch.zeros(len(sequences), model.config.hidden_size)
            begun = time.perf_counter()
            with torch.inference_mode():
                for start in range(0, len(order), size):
                    batch = order[start : start + size]
                    longest = len(sequences[batch[0]])
                    ids = torch.zeros(len(batch), longest, dtype=torch.long)
                    mask = torch.zeros(len(batch), longest, dtype=torch.long)
                    for row, at in enumerate(batch):
                        ids[row, : len(sequences[at])] = torch.tensor(sequences[at])
                        mask[row, : len(sequences[at])] = 1
                    padded = {} if bool(mask.all()) else {"attention_mask": mask}
                    states = model(ids, use_cache=False, **padded).last_hidden_state.float()
                    weight = mask.unsqueeze(-1).float()
                    vectors[batch] = (states * weight).sum(1) / weight.sum(1)
            tried[size] = tokens / (time.perf_counter() - begun)
        ours = torch.frombuffer(bytearray((folder / f"{name}.f32").read_bytes()), dtype=torch.float32)
        cosine = torch.cosine_similarity(ours.view(vectors.shape), vectors)
        best = max(tried, key=tried.get)
        results.append(
            {
                "set": name,
                "texts": len(sequences),
                "tokens": tokens,
                "tokens_per_s": tried[best],
                "batch": best,
                "by_batch": tried,
                "cosine_min": cosine.min().item(),
                "cosine_mean": cosine.mean().item(),
            }
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"torch": torch.__version__, "peak_rss_bytes": peak, "sets": results}))


def table(args):
    folder = pathlib.Path(args.dir)
    read = lambda name: [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}.*.json"))]
    ours, ceilings = read("ours"), read("ceiling")
    peers = {"PyTorch f32": read("float32"), "PyTorch bf16": read("bfloat16")}
    ceiling = max(c["f32_gemm_flops"] for c in ceilings)
    bound = ceiling / (2 * ours[0]["linear_parameters"])
    best = lambda runs, at: max((run["sets"][at] for run in runs), key=lambda s: s["tokens_per_s"])
    gib = lambda runs: f"{max(run['peak_rss_bytes'] for run in runs) / 2**20:,.0f} MiB"
    print(f"threads {ours[0]['threads']}, f32 GEMM ceiling {ceiling / 1e9:,.0f} GFLOP/s = {bound:,.0f} tokens/s")
    print(f"load {min(o['load_s'] for o in ours):.2f} s, tokenising {min(o['tokenize_s'] for o in ours):.3f} s for all sets")
    names = {entry["set"]: at for at, entry in enumerate(ours[0]["sets"])}
    for name, at in names.items():
        mine = best(ours, at)
        print(f"\n{name}: {mine['texts']} texts, {mine['tokens']:,} tokens (of them counted: real ones, no padding)")
        print(f"{'':16}{'tokens/s':>10}{'ours is':>10}{'share':>8}{'batch':>7}{'cosine min':>12}{'mean':>10}{'peak RSS':>12}")
        rate = mine["tokens_per_s"]
        print(f"{'ours f32':16}{rate:10,.0f}{'':10}{rate / bound:8.2f}{'':7}{'':12}{'':10}{gib(ours):>12}")
        for peer, runs in peers.items():
            if not runs:
                continue
            where = {entry["set"]: i for i, entry in enumerate(runs[0]["sets"])}[name]
            them = best(runs, where)
            print(
                f"{peer:16}{them['tokens_per_s']:10,.0f}{rate / them['tokens_per_s']:9.2f}x"
                f"{them['tokens_per_s'] / bound:8.2f}{them['batch']:7}{them['cosine_min']:12.6f}"
                f"{them['cosine_mean']:10.6f}{gib(runs):>12}"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("texts")
    command.add_argument("--notes", type=int, default=200)
    command.add_argument("--cwe")
    command.add_argument("--stackexchange")
    command.add_argument("out")
    command.set_defaults(run=texts)
    command = commands.add_parser("torch")
    command.add_argument("model")
    command.add_argument("dir")
    command.add_argument("--dtype", default="float32")
    command.add_argument("--batch", default="8,32")
    command.add_argument("--threads", type=int)
    command.set_defaults(run=torch_run)
    command = commands.add_parser("table")
    command.add_argument("dir")
    command.set_defaults(run=table)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
