"""Trains byte_bpe.json and writes the golden ids, with PyPI `tokenizers` 0.23.3.

NAME.ids holds, for each line of corpus.hex, the ids with and without special tokens and the hex of
the decoded text, separated by tabs.
"""
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from make_corpus import TEXTS

HERE = pathlib.Path(__file__).parent
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def train():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.add_special_tokens(["<|begin|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    tokenizer.add_tokens([AddedToken("[MASK]", lstrip=True), AddedToken("hello", rstrip=True, normalized=True),
                          AddedToken("word", single_word=True), AddedToken("caf\u00e9", normalized=True)])
    begin = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A <|begin|>:1 $B:1", special_tokens=[("<|begin|>", begin)])
    tokenizer.save(str(HERE / "byte_bpe.json"), pretty=False)


def golden(name):
    tokenizer = Tokenizer.from_file(str(HERE / f"{name}.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    lines = []
    for text in TEXTS:
        tokenizer.encode_special_tokens = False
        ids = tokenizer.encode(text).ids
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        decoded = tokenizer.decode(ids).encode().hex()
        lines.append("\t".join([" ".join(map(str, ids)), " ".join(map(str, plain)), decoded]) + "\n")
    (HERE / f"{name}.ids").write_text("".join(lines), encoding="ascii")


if __name__ == "__main__":
    train()
    for name in ("byte_bpe", "minilm", "sentencepiece"):
        golden(name)
