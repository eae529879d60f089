#!/usr/bin/env python3
"""The peers of encode.rs: writes the texts, runs other programs on the same token ids, prints the table.

    encode_peers.py texts   --notes N --cwe FILE.csv --stackexchange FILE.jsonl OUT.jsonl
    encode_peers.py convert MODEL.gguf DIR            # DIR/model.Q8_0.gguf and the Hugging Face folder DIR/hf
    encode_peers.py ceiling [--threads N]
    encode_peers.py torch   DIR --dtype float32|bfloat16 --batch 4,16 [--threads N]
    encode_peers.py st      DIR --dtype float32|bfloat16 --batch 4,16 [--threads N]
    encode_peers.py llama   DIR --batch 512,2048 [--threads N]
    encode_peers.py table   DIR

Every runner reads DIR/<set>.ids.json, writes its vectors to DIR/<set>.<runner>.f32 and prints one JSON object. What a first short
call predicts to exceed the step's time (steps.py) is cut before it begins.
"""

import argparse
import csv
import json
import os
import pathlib
import resource
import time

import steps


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


def convert(args):
    """The same weights for everybody: as Hugging Face files (f32), and every matrix as Q8_0 blocks."""
    import gguf
    import numpy
    import torch
    from gguf.quants import dequantize, quantize
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, folder = pathlib.Path(args.model), pathlib.Path(args.dir)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    model.model.save_pretrained(folder / "hf")
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # With a template sentence-transformers would encode every text as a chat.
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder / "hf")

    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(folder / "model.Q8_0.gguf", architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], element)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values)
        else:
            blocks = quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(tensor.name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def threads(args):
    return args.threads or os.cpu_count()


def ceiling(args):
    """Large products by PyTorch: operations a second, the best of several sizes and many runs."""
    import torch

    torch.set_num_threads(threads(args))
    budget, found = steps.Budget(), {}
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16), ("int8", torch.int8)):
        unit = 0.0
        for n in (128, 1024, 2048):
            # Some processors have no fast product of a kind: it must not take the others' time.
            if not budget.allows(f"{name} product of {n}", unit * n**3, 0.1):
                break
            if name == "int8":
                a, b = (torch.randint(-100, 100, (n, n), dtype=dtype) for _ in range(2))
                product = lambda: torch._int_mm(a, b)
            else:
                a, b = (torch.randn(n, n).to(dtype) for _ in range(2))
                product = lambda: a @ b
            best = steps.fastest(product, 12, 5)
            unit = best / n**3
            if n > 128:
                found[name] = max(found.get(name, 0), 2 / unit)
    print(json.dumps({"torch": torch.__version__, "gemm": found}))


def texts_of(folder):
    """Texts and token ids of every set, in the order of its notes: {set: (texts, sequences)}."""
    found = {}
    for line in map(json.loads, open(folder / "texts.jsonl")):
        found.setdefault(line["set"], []).append(line["text"])
    ids = {path.name.removesuffix(".ids.json"): path for path in sorted(folder.glob("*.ids.json"))}
    return {name: (found[name], json.loads(path.read_text())) for name, path in ids.items()}


def timed(run, texts, sequences):
    """What `run` gives, and its seconds: by its own account where it also checks something."""
    begun = time.perf_counter()
    vectors = run(texts, sequences)
    return vectors, getattr(run, "seconds", time.perf_counter() - begun)


def foretold(run, texts, sequences, budget):
    """The seconds of a run over everything, by runs over few texts: the shortest twice, as the first also prepares, then as many as
    time allows. Few and short ones take longer a token than all do, so this is rather too much than too little."""
    order = sorted(range(len(sequences)), key=lambda at: len(sequences[at]))
    tokens, seconds = sum(map(len, sequences)), 0.0
    for some in (order[:1], order[:1], order[:4], order[:16]):
        share = sum(len(sequences[at]) for at in some) / tokens
        if seconds * share > budget.left() / 8:
            break
        seconds = timed(run, [texts[at] for at in some], [sequences[at] for at in some])[1] / share
    return seconds


def measure(args, runner, prepare):
    """Runs `prepare(size)(texts, sequences)` on every set at every batch size and writes the fastest one's vectors."""
    import numpy

    folder, budget = pathlib.Path(args.dir), steps.Budget()
    sets = texts_of(folder)
    tried, best = {name: {} for name in sets}, {}
    for size in map(int, args.batch.split(",")):
        run = prepare(size)
        for name, (texts, sequences) in sets.items():
            tokens = sum(map(len, sequences))
            seconds = foretold(run, texts, sequences, budget)
            if not budget.allows(f"{name} in batches of {size} (some {tokens / seconds:,.1f} tokens/s)", seconds):
                continue
            vectors, seconds = timed(run, texts, sequences)
            tried[name][size] = tokens / seconds
            if tried[name][size] == max(tried[name].values()):
                best[name] = vectors
    results = []
    for name, (texts, sequences) in sets.items():
        if name not in best:
            continue
        numpy.asarray(best[name], dtype="<f4").tofile(folder / f"{name}.{runner}.f32")
        size = max(tried[name], key=tried[name].get)
        results.append(
            {"set": name, "texts": len(texts), "tokens": sum(map(len, sequences)), "tokens_per_s": tried[name][size],
             "batch": size, "by_batch": tried[name]}
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"runner": runner, "peak_rss_bytes": peak, "sets": results}))


def short(dtype):
    return {"float32": "f32", "bfloat16": "bf16"}[dtype]


def torch_run(args):
    import torch
    from transformers import AutoModel

    torch.set_num_threads(threads(args))
    folder = pathlib.Path(args.dir)
    model = AutoModel.from_pretrained(folder / "hf", dtype=getattr(torch, args.dtype)).eval()

    def prepare(size):
        def run(_texts, sequences):
            order = sorted(range(len(sequences)), key=lambda at: -len(sequences[at]))
            vectors = torch.zeros(len(sequences), model.config.hidden_size)
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
            return vectors.numpy()

        return run

    measure(args, f"torch-{short(args.dtype)}", prepare)


def st_run(args):
    import torch
    from sentence_transformers import SentenceTransformer, models

    torch.set_num_threads(threads(args))
    folder = pathlib.Path(args.dir)
    kwargs = {"dtype": getattr(torch, args.dtype)}
    word = models.Transformer(str(folder / "hf"), max_seq_length=512, model_kwargs=kwargs)
    word.tokenizer.pad_token = word.tokenizer.eos_token
    word.tokenizer.padding_side = "right"
    pooling = models.Pooling(word.auto_model.config.hidden_size, pooling_mode="mean")
    model = SentenceTransformer(modules=[word, pooling], device="cpu")

    def prepare(size):
        def run(texts, sequences):
            features = getattr(model, "preprocess", model.tokenize)(texts)
            if features["attention_mask"].sum(1).tolist() != list(map(len, sequences)):
                raise SystemExit("sentence-transformers cuts these texts into other tokens")
            begun = time.perf_counter()
            vectors = model.encode(texts, batch_size=size, convert_to_numpy=True)
            run.seconds = time.perf_counter() - begun
            return vectors

        return run

    measure(args, f"st-{short(args.dtype)}", prepare)


def llama_run(args):
    import llama_cpp
    import numpy
    from llama_cpp import Llama

    folder = pathlib.Path(args.dir)

    def prepare(size):
        llama = Llama(
            model_path=str(folder / "model.Q8_0.gguf"), embedding=True, verbose=False,
            pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN, n_ctx=size, n_batch=size, n_ubatch=size,
            n_threads=threads(args), n_threads_batch=threads(args),
        )
        width = llama.n_embd()

        def run(_texts, sequences):
            vectors = numpy.zeros((len(sequences), width), dtype=numpy.float32)
            batch, members = llama._batch, []

            def flush():
                llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(llama._ctx.ctx), True)
                llama._ctx.decode(batch)
                for seq, at in enumerate(members):
                    state = llama_cpp.llama_get_embeddings_seq(llama._ctx.ctx, seq)
                    vectors[at] = state[:width]
                batch.reset()
                members.clear()

            for at in sorted(range(len(sequences)), key=lambda at: -len(sequences[at])):
                full = batch.n_tokens() + len(sequences[at]) > size
                if members and (full or len(members) == llama.context_params.n_seq_max):
                    flush()
                batch.add_sequence(sequences[at], len(members), True)
                members.append(at)
            flush()
            return vectors

        return run

    measure(args, "llama-q8_0", prepare)


NAMES = {
    "ours-f32": "ours f32",
    "ours-bf16": "ours bf16",
    "ours-int8": "ours int8",
    "torch-f32": "PyTorch f32",
    "torch-bf16": "PyTorch bf16",
    "st-f32": "sentence-tr. f32",
    "onnx-f32": "ONNX Runtime f32",
    "st-bf16": "sentence-tr. bf16",
    "llama-q8_0": "llama.cpp Q8_0",
}


def table(args):
    folder = pathlib.Path(args.dir)
    read = lambda name: [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}.[0-9]*.json"))]
    runs = {name: found for name in NAMES if (found := read(name))}
    cuts = [(steps.turn_of(name).removesuffix(".json"), what) for name, what in steps.cuts(folder)]
    machine, torch = read("ceiling"), read("ceiling-torch")
    ours = [name for name in NAMES if name.startswith("ours")]
    first = next((runs[name][0] for name in ours if name in runs), None)
    sets = {}
    for entry in (entry for found in runs.values() for run in found for entry in run["sets"]):
        sets.setdefault(entry["set"], entry)
    most = lambda found, pick: max((pick(one) for one in found), default=0)
    # The best product that anybody made here. Who has no fast one of narrow numbers can widen them, so f32's bounds the others.
    product = lambda kind: most(torch, lambda c: c["gemm"].get(kind, 0))
    f32 = max(product("f32"), most(machine, lambda c: c["f32_gemm_flops"]))
    tops = {kind: max(f32, product(kind)) for kind in ("f32", "bf16", "int8")}
    peaks = {kind: most(machine, lambda c: c["registers"].get(kind, 0)) for kind in tops}
    bound = {kind: top / (2 * first["linear_parameters"]) if first else 0 for kind, top in tops.items()}
    if machine:
        print((f"threads {first['threads']}; " if first else "") + "operations/s in G: " + "; ".join(
            f"{kind} {tops[kind] / 1e9:,.0f} as a large product ({bound[kind]:,.0f} tokens/s), "
            f"{peaks[kind] / 1e9:,.0f} in registers" for kind in tops))
        print(f"memory is read at {most(machine, lambda c: c['read_bytes_per_s']) / 1e9:.1f} GB/s")
    for name in ours:
        for one in runs.get(name, [])[:1]:
            load = min(run["load_s"] for run in runs[name])
            print(f"{NAMES[name]}: loaded in {load:.2f} s, then {one['loaded_rss_bytes'] / 2**20:,.0f} MiB resident "
                  f"(at most {one['load_peak_rss_bytes'] / 2**20:,.0f} while loading)")
    lines = []
    if sets:
        import numpy
    for name, mine in sets.items():
        vectors = lambda runner: numpy.fromfile(folder / f"{name}.{runner}.f32", dtype="<f4").reshape(mine["texts"], -1).astype("f8")
        exact = vectors("ours-f32") if "ours-f32" in runs else None
        rates = {}
        print(f"\n{name}: {mine['texts']} texts, {mine['tokens']:,} tokens (real ones: padding does not count)")
        print(f"{'':18}{'tokens/s':>10}{'to f32':>8}{'share':>8}{'batch':>7}{'cosine min':>12}{'mean':>10}{'peak RSS':>12}")
        for runner in NAMES:
            found = runs.get(runner, [])
            entries = [entry for run in found for entry in run["sets"] if entry["set"] == name]
            if not entries:
                # Of all sets, or of this one in every batch size.
                for what in dict.fromkeys(w for who, w in cuts if who == runner and w.startswith((f"cut: {name} ", "cut after"))):
                    print(f"{NAMES[runner]:18}  {what}")
                continue
            best = max(entries, key=lambda entry: entry["tokens_per_s"])
            rates[runner] = best["tokens_per_s"]
            kind = "int8" if runner.endswith(("int8", "q8_0")) else runner.rsplit("-")[-1]
            ratio = f"{rates[runner] / rates['ours-f32']:7.2f}x" if "ours-f32" in rates else f"{'':8}"
            share = f"{rates[runner] / bound[kind]:8.2f}" if bound[kind] else f"{'':8}"
            cosines = f"{'':22}"
            if exact is not None:
                them = vectors(runner)
                cosine = (exact * them).sum(1) / numpy.sqrt((exact**2).sum(1) * (them**2).sum(1))
                cosines = f"{cosine.min():12.6f}{cosine.mean():10.6f}"
            rss = f"{max(run['peak_rss_bytes'] for run in found) / 2**20:,.0f} MiB"
            print(f"{NAMES[runner]:18}{rates[runner]:10,.0f}{ratio}{share}{best['batch']:7}{cosines}{rss:>12}")
        for own in (own for own in ours if own in rates):
            ratios = ", ".join(f"{rates[own] / rate:.2f}x {NAMES[peer]}" for peer, rate in rates.items() if peer not in ours)
            lines.append(f"{name}: {NAMES[own]} is {ratios}")
    print("\n" + "\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("texts")
    command.add_argument("--notes", type=int, default=200)
    command.add_argument("--cwe")
    command.add_argument("--stackexchange")
    command.add_argument("out")
    command.set_defaults(run=texts)
    command = commands.add_parser("convert")
    command.add_argument("model")
    command.add_argument("dir")
    command.set_defaults(run=convert)
    command = commands.add_parser("ceiling")
    command.add_argument("--threads", type=int)
    command.set_defaults(run=ceiling)
    for name, run in (("torch", torch_run), ("st", st_run), ("llama", llama_run)):
        command = commands.add_parser(name)
        command.add_argument("dir")
        command.add_argument("--dtype", default="float32")
        command.add_argument("--batch", default="4,16")
        command.add_argument("--threads", type=int)
        command.set_defaults(run=run)
    command = commands.add_parser("table")
    command.add_argument("dir")
    command.set_defaults(run=table)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
