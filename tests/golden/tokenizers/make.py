"""Trains small tokenizers of the shapes that language models use, and writes what the tokenizers library makes of texts.

Usage: make.py (tokenizers 0.23; writes *.json beside itself)

Each NAME.json is a tokenizer.json; ids.json holds the texts and, for each tokenizer, the ids of each, without special
tokens around them.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent

PROSE = """The weights of a layer are divided into groups, and every group has a scale and a zero of its own. Don't round
them one by one: what counts is the error of the whole. We've measured 1234 of 56789 layers in 2024, and they're better.
if (x == 10) {\n\treturn y[3] + 0x1F;\n}\n\n\nEin größerer Fehler; cœur, naïve, façade. 世界 你好 こんにちは Привет мир γειά"""
TEXTS = [
    "",
    " ",
    "Hello world",
    "  leading spaces, and   runs    of them   ",
    "don't DON'T We'll WE'LL they'Re I'd'Ve 'ſ",
    "tabs\tand\t\tlines\n\nthree\n\n\n  indented\r\nCR LF\r\n\r\nlone\rCR",
    "1 12 123 1234 12345 3.14159 ½ Ⅷ ٣٤٥ x²",
    "café cafe\u0301 \u1e9b\u0323 ﬁ Å Ａ ＡＢＣ İstanbul ΟΔΟΣ",
    "👩‍👩‍👧 🏳️‍🌈 👍🏽 e\u0301\u0302",
    "你好，世界！こんにちは。 안녕 Привет العربية हिन्दी ไทย",
    "<s>start</s> <|end|>  <|end|>\n<|im_start|>user\nhi<|im_end|> <pad><pad>",
    "▁ is ▁▁ what <0x0A> stands \u00a0for\u3000spaces\u2028here\u0085there\u180eand\x0b\x1cthere",
    "x = y[i] + z->w; // a_b, \"c\" #d !? ... ;;;;",
    "ADD me and add ME",
    "\U0001f9ff\ue000 \u0378 unknown",
    PROSE,
]

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(**options):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, **options)


def split(pattern, behavior, invert=False):
    return pre_tokenizers.Split(pattern, behavior, invert)


def train(size, *, specials=(), model=None, normalizer=None, pre_tokenizer=None, alphabet=(), bytes_first=False,
          letters=1000):
    tokenizer = Tokenizer(models.BPE(**(model or {})))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    first = [*specials, *(BYTES if bytes_first else [])]
    trainer = trainers.BpeTrainer(vocab_size=size + len(first), special_tokens=first, initial_alphabet=list(alphabet),
                                  limit_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator([PROSE] * 3 + TEXTS[2:9], trainer)
    return tokenizer


def with_model(tokenizer, added, **settings):
    """The same tokenizer with other settings of its model, and these added tokens alone."""
    made = json.loads(tokenizer.to_str())
    made["model"].update(settings)
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] in added]
    return Tokenizer.from_str(json.dumps(made))


def starts_with(tokenizer, token, also=None):
    template = processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, tokenizer.token_to_id(token))])
    tokenizer.post_processor = processors.Sequence([also, template]) if also else template
    return tokenizer


def made():
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    chat = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    yield "gpt2", train(330, specials=chat[:1], pre_tokenizer=byte_level(), alphabet=alphabet)
    yield "smollm", train(330, specials=chat, alphabet=alphabet,
                          pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level()]))
    qwen = train(330, normalizer=normalizers.NFC(), alphabet=alphabet, pre_tokenizer=pre_tokenizers.Sequence(
        [split(Regex(QWEN2), "isolated"), byte_level(use_regex=False)]))
    qwen.add_special_tokens(chat)
    qwen.add_tokens(["<pad>", AddedToken("世界", normalized=True)])
    yield "qwen2", qwen
    llama3 = train(340, specials=["<s>", "<|end|>"], model={"ignore_merges": True}, alphabet=alphabet,
                   pre_tokenizer=pre_tokenizers.Sequence([split(Regex(LLAMA3), "isolated"), byte_level(use_regex=False)]))
    yield "llama3", starts_with(llama3, "<s>", processors.ByteLevel(trim_offsets=False))
    yield "tekken", train(330, specials=["<unk>", "<s>", "</s>"], alphabet=alphabet, pre_tokenizer=pre_tokenizers.Sequence(
        [split(Regex(TEKKEN), "isolated"), byte_level(use_regex=False)]))
    yield "deepseek", train(330, alphabet=alphabet, pre_tokenizer=pre_tokenizers.Sequence(
        [split(Regex("[\r\n]"), "isolated"), split(Regex(r"\s?\p{L}+"), "isolated"), pre_tokenizers.Punctuation("contiguous"),
         pre_tokenizers.Digits(False), byte_level(use_regex=False)]))

    pieces = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    marks = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    llama2 = train(200, specials=["<unk>", "<s>", "</s>"], model=pieces, normalizer=marks, bytes_first=True)
    llama2 = with_model(llama2, ["<unk>", "<s>", "</s>"], fuse_unk=True)
    yield "llama2", starts_with(llama2, "<s>")
    phi3 = with_model(llama2, ["<unk>", "<s>", "</s>"])
    phi3.add_special_tokens([AddedToken("<|end|>", rstrip=True, normalized=False)])
    phi3.add_tokens([AddedToken("<pad>", lstrip=True, normalized=False), AddedToken("me", normalized=True, rstrip=True)])
    yield "phi3", phi3
    first = train(200, specials=["<unk>", "<s>", "</s>"], model=pieces, bytes_first=True,
                  pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False))
    yield "mistral", starts_with(with_model(first, ["<unk>", "<s>", "</s>"]), "<s>")
    yield "metaspace", train(200, specials=["<unk>", "<s>"], model={"unk_token": "<unk>"},
                             normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
                             pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="always", split=True))
    gemma = train(200, specials=["<pad>", "<s>", "<unk>"], model=pieces, bytes_first=True,
                  normalizer=normalizers.Replace(" ", "▁"), pre_tokenizer=split(" ", "merged_with_previous"))
    gemma = with_model(gemma, ["<pad>", "<s>", "<unk>"])
    gemma.add_tokens([AddedToken(text, normalized=False) for text in ("\n\n", "\n\n\n", "▁▁", "\t")])
    yield "gemma", starts_with(gemma, "<s>")
    yield "unknown", with_model(train(150, specials=["<unk>", "<0x0A>"], model={"unk_token": "<unk>"},
                                      pre_tokenizer=pre_tokenizers.Sequence([
                                          split("; ", "removed"), split(Regex(r"\w+"), "merged_with_next", invert=True)])),
                                [], byte_fallback=True)
    tiny = train(62, specials=["<s>", "<unk>"], model={"unk_token": "<unk>"}, letters=40)  # for models of 64 tokens
    yield "tiny", starts_with(tiny, "<s>")


def main():
    ids = {}
    for name, tokenizer in made():
        (HERE / f"{name}.json").write_text(tokenizer.to_str())
        again = Tokenizer.from_file(str(HERE / f"{name}.json"))
        ids[name] = [again.encode(text, add_special_tokens=False).ids for text in TEXTS]
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(lists, separators=(',', ':'))}" for name, lists in ids.items())
    (HERE / "ids.json").write_text(f'{{"texts": {json.dumps(TEXTS)},\n"ids": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    main()
