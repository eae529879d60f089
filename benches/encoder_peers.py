#!/usr/bin/env python3
"""The peers of encoders.sh: sentence-transformers and ONNX Runtime on the same encoder and the same texts.

    encoder_peers.py random modernbert TOKENIZER FOLDER   # 22 layers, 768 wide, 149M parameters, random weights
    encoder_peers.py export MODEL OUT.onnx
    encoder_peers.py st     DIR MODEL --batch 8,16,32,64 [--threads N]
    encoder_peers.py onnx   DIR MODEL OUT.onnx --batch 8,16,32,64 [--threads N]

A MODEL is a folder that sentence-transformers reads. Every runner takes texts, tokenises them itself, and must come to the ids in
DIR/<set>.ids.json; longest texts first, so that the least is padded. Beside that, as encode_peers.py does it. ONNX Runtime stands
for fastembed, which runs it with its own models from a hub: one batch after the other, padded to its longest text, mean over the
mask.
"""

import argparse
import json
import pathlib
import time

import encode_peers


def random_model(args):
    """An encoder of a family's published size whose weights nobody trained: speed does not depend on them."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import AutoTokenizer, ModernBertConfig, ModernBertModel

    torch.manual_seed(1)
    folder = pathlib.Path(args.folder)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    special = {"pad_token_id": tokenizer.pad_token_id, "cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    config = ModernBertConfig(bos_token_id=tokenizer.cls_token_id, eos_token_id=tokenizer.sep_token_id, **special)
    ModernBertModel(config).save_pretrained(folder / "bare")
    tokenizer.save_pretrained(folder / "bare")
    word = Transformer(str(folder / "bare"))
    word.max_seq_length = args.longest
    pooling = Pooling(config.hidden_size, pooling_mode="mean")
    SentenceTransformer(modules=[word, pooling], device="cpu").save_pretrained(str(folder / "model"))


def export(args):
    import torch
    from transformers import AutoModel

    # The exporter knows no fused attention; ONNX Runtime fuses what it can itself.
    model = AutoModel.from_pretrained(args.model, attn_implementation="eager", dtype=torch.float32).eval()

    class States(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.randint(5, 1000, (2, 16))
    batch, length = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("length", min=2, max=512)
    shapes = ({0: batch, 1: length}, {0: batch, 1: length})
    torch.onnx.export(
        States(), (ids, torch.ones_like(ids)), args.out, input_names=["input_ids", "attention_mask"],
        output_names=["states"], dynamic_shapes=shapes, dynamo=True, external_data=False,
    )


def st_run(args):
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(encode_peers.threads(args))
    model = SentenceTransformer(args.model, device="cpu")
    if args.longest:
        model.max_seq_length = args.longest

    def prepare(size):
        def run(texts, sequences):
            features = getattr(model, "preprocess", model.tokenize)(texts)
            rows = zip(features["input_ids"].tolist(), features["attention_mask"].sum(1).tolist())
            same_ids([ids[:length] for ids, length in rows], sequences)
            begun = time.perf_counter()
            vectors = model.encode(texts, batch_size=size, convert_to_numpy=True)
            run.seconds = time.perf_counter() - begun
            return vectors

        return run

    encode_peers.measure(args, "st-f32", prepare)


def onnx_run(args):
    import numpy
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = encode_peers.threads(args)
    session = onnxruntime.InferenceSession(args.graph, options, providers=["CPUExecutionProvider"])
    folder = pathlib.Path(args.model)
    told = folder / "sentence_bert_config.json"
    longest = args.longest or (json.loads(told.read_text()).get("max_seq_length") if told.exists() else None) or 512
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(longest)
    tokenizer.no_padding()

    def prepare(size):
        def run(texts, sequences):
            begun = time.perf_counter()
            found = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
            order = sorted(range(len(found)), key=lambda at: -len(found[at]))
            vectors = []
            for start in range(0, len(order), size):
                batch = [found[at] for at in order[start : start + size]]
                ids = numpy.zeros((len(batch), len(batch[0])), dtype=numpy.int64)
                mask = numpy.zeros_like(ids)
                for row, sequence in enumerate(batch):
                    ids[row, : len(sequence)] = sequence
                    mask[row, : len(sequence)] = 1
                states = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
                weight = mask[:, :, None].astype(numpy.float32)
                vectors.append((states * weight).sum(1) / weight.sum(1))
            rows = numpy.empty((len(order), vectors[0].shape[1]), dtype=numpy.float32)
            rows[order] = numpy.concatenate(vectors)
            run.seconds = time.perf_counter() - begun
            same_ids(found, sequences)
            return rows

        return run

    encode_peers.measure(args, "onnx-f32", prepare)


def same_ids(found, sequences):
    if found != sequences:
        raise SystemExit("these texts become other tokens here")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("random")
    command.add_argument("family", choices=["modernbert"])
    command.add_argument("tokenizer")
    command.add_argument("folder")
    command.add_argument("--longest", type=int, default=256)
    command.set_defaults(run=random_model)
    command = commands.add_parser("export")
    command.add_argument("model")
    command.add_argument("out")
    command.set_defaults(run=export)
    for name, run in (("st", st_run), ("onnx", onnx_run)):
        command = commands.add_parser(name)
        command.add_argument("dir")
        command.add_argument("model")
        if name == "onnx":
            command.add_argument("graph")
        command.add_argument("--batch", default="8,16,32,64")
        command.add_argument("--threads", type=int)
        command.add_argument("--longest", type=int)
        command.set_defaults(run=run)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
