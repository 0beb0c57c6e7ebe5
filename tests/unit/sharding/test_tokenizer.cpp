// Tokenizers of tokenizer.json: every component by itself, whole ones against the tokenizers library, what is refused.
#include <dlfcn.h>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sharding/tokenizer/normalizer.h"
#include "sharding/tokenizer/pre_tokenizer.h"
#include "sharding/tokenizer/tokenizer.h"
#include "sharding/tokenizer/unicode.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

namespace json = boost::json;
using test::expect_error;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Ids = std::vector<std::int64_t>;
using Texts = std::vector<std::string>;

const std::filesystem::path kGolden = std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "tokenizers";

/// What the pre-tokenizer makes of a text that begins where the whole one does, or of one that does not.
Texts pieces(const std::string& pre_tokenizer, const std::string& text, bool is_first = true) {
  const json::object tokenizer = {{"pre_tokenizer", json::parse(pre_tokenizer)}};
  std::vector<TextPiece> all = {{text, is_first}};
  for (const PreTokenizerStep& step : parse_pre_tokenizer(tokenizer)) all = step(std::move(all));
  Texts out;
  for (const TextPiece& piece : all) out.push_back(piece.text);
  return out;
}

std::string normal(const std::string& normalizer, const std::string& text) {
  return normalized(parse_normalizer({{"normalizer", json::parse(normalizer)}}), text);
}

Texts split(const std::string& behavior, const std::string& text, bool invert = false) {
  return pieces(fmt::format(R"({{"type": "Split", "pattern": {{"String": "-"}}, "behavior": "{}", "invert": {}}})",
                            behavior, invert),
                text);
}

/// A tokenizer whose tokens are `vocabulary`, in order.
std::string tokenizer_json(const Texts& vocabulary, const std::string& merges, const std::string& more_of_model = "",
                           const std::string& more = "") {
  std::string words;
  for (std::size_t i = 0; i < vocabulary.size(); ++i) {
    words += fmt::format("{}\"{}\": {}", i == 0 ? "" : ", ", vocabulary[i], i);
  }
  return fmt::format(R"({{"model": {{"type": "BPE", "vocab": {{{}}}, "merges": {}{}}}{}}})", words, merges,
                     more_of_model, more);
}

TEST(PreTokenizer, SplitsByEveryBehavior) {
  EXPECT_THAT(split("Isolated", "a-b--c"), ElementsAre("a", "-", "b", "-", "-", "c"));
  EXPECT_THAT(split("Removed", "-a-b--c"), ElementsAre("a", "b", "c"));
  EXPECT_THAT(split("Contiguous", "-a-b--c"), ElementsAre("-", "a", "-", "b", "--", "c"));
  EXPECT_THAT(split("MergedWithPrevious", "-a-b--c"), ElementsAre("-", "a-", "b-", "-", "c"));
  EXPECT_THAT(split("MergedWithNext", "a-b--c-"), ElementsAre("a", "-b", "-", "-c", "-"));
  EXPECT_THAT(split("Removed", "-a-b--c", /*invert=*/true), ElementsAre("-", "-", "-", "-"));
  EXPECT_THAT(split("Isolated", ""), IsEmpty());
}

TEST(PreTokenizer, SplitsByRegularExpressionsAsOnigurumaReadsThem) {
  const auto by = [](const std::string& regex, const std::string& text) {
    const json::object pattern = {{"Regex", regex}};
    const json::object step = {{"type", "Split"}, {"pattern", pattern}, {"behavior", "Isolated"}, {"invert", false}};
    std::vector<TextPiece> all = {{text, true}};
    for (const PreTokenizerStep& run : parse_pre_tokenizer({{"pre_tokenizer", step}})) all = run(std::move(all));
    Texts out;
    for (const TextPiece& piece : all) out.push_back(piece.text);
    return out;
  };
  EXPECT_THAT(by(R"(\s+(?!\S)|\s+)", "a   b  "), ElementsAre("a", "  ", " ", "b", "  "));
  EXPECT_THAT(by(R"(\s)",
                 "a\xC2\x85"
                 "b\xE2\x80\xA8"
                 "c\xE1\xA0\x8E"
                 "d\x1C"
                 "e"),  // U+0085 and U+2028 are white space, U+180E and U+001C are not
              ElementsAre("a", "\xC2\x85", "b", "\xE2\x80\xA8",
                          "c\xE1\xA0\x8E"
                          "d\x1C"
                          "e"));
  EXPECT_THAT(by(R"((?i:'s))", "a'S'\xC5\xBF."), ElementsAre("a", "'S", "'\xC5\xBF", "."));  // U+017F is a small s too
  EXPECT_THAT(by(R"([^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})", "x é1234"), ElementsAre("x", " é", "123", "4"));
  EXPECT_THAT(by(R"(b*)", "abba"), ElementsAre("a", "bb", "a"));  // empty matches cut, and go on
  EXPECT_THAT(by(R"(\h)", "fg"), ElementsAre("f", "g"));          // a hexadecimal digit, not a space as in Perl
}

TEST(PreTokenizer, ByteLevelDividesIntoWordsAndWritesBytesAsCharacters) {
  const std::string plain = R"({"type": "ByteLevel", "add_prefix_space": false})";
  EXPECT_THAT(pieces(plain, "We're  10\né"), ElementsAre("We", "'re", "Ġ", "Ġ10", "Ċ", "Ã©"));
  EXPECT_THAT(pieces(R"({"type": "ByteLevel"})", "a b"), ElementsAre("Ġa", "Ġb"));
  EXPECT_THAT(pieces(R"({"type": "ByteLevel"})", " a"), ElementsAre("Ġa"));
  EXPECT_THAT(pieces(R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})", "a b\x7F\xC2\xAD"),
              ElementsAre("aĠbġÂŃ"));
}

TEST(PreTokenizer, MetaspacePutsItsMarkWhereTheSchemeSays) {
  const auto with = [](const std::string& more) {
    return fmt::format(R"({{"type": "Metaspace", "replacement": "▁"{}}})", more);
  };
  EXPECT_THAT(pieces(with(""), "a b  c"), ElementsAre("▁a", "▁b", "▁", "▁c"));
  EXPECT_THAT(pieces(with(R"(, "prepend_scheme": "first", "split": false)"), "a b"), ElementsAre("▁a▁b"));
  EXPECT_THAT(pieces(with(R"(, "prepend_scheme": "first", "split": false)"), "a b", false), ElementsAre("a▁b"));
  EXPECT_THAT(pieces(with(R"(, "prepend_scheme": "always", "split": false)"), "a b", false), ElementsAre("▁a▁b"));
  EXPECT_THAT(pieces(with(R"(, "prepend_scheme": "never")"), "a b"), ElementsAre("a", "▁b"));
  EXPECT_THAT(pieces(with(R"(, "add_prefix_space": false, "prepend_scheme": "never")"), "a"), ElementsAre("a"));
  EXPECT_THAT(pieces(with(R"(, "prepend_scheme": "always", "split": false)"), " a"), ElementsAre("▁a"));
}

TEST(PreTokenizer, CutsAtDigitsAndPunctuation) {
  EXPECT_THAT(pieces(R"({"type": "Digits", "individual_digits": true})", "a12²b"),
              ElementsAre("a", "1", "2", "²", "b"));
  EXPECT_THAT(pieces(R"({"type": "Digits", "individual_digits": false})", "a12Ⅷb"), ElementsAre("a", "12Ⅷ", "b"));
  EXPECT_THAT(pieces(R"({"type": "Punctuation"})", "a+b…c"), ElementsAre("a", "+", "b", "…", "c"));
  EXPECT_THAT(pieces(R"({"type": "Punctuation", "behavior": "Contiguous"})", "a!?b"), ElementsAre("a", "!?", "b"));
  EXPECT_THAT(pieces(R"({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
                         {"type": "Punctuation"}]})",
                     "1.2"),
              ElementsAre("1", ".", "2"));
}

TEST(Normalizer, DoesWhatItsStepsAreCalled) {
  EXPECT_EQ(normal(R"({"type": "NFC"})", "e\xCC\x81"), "é");
  EXPECT_EQ(normal(R"({"type": "NFD"})", "é"), "e\xCC\x81");
  EXPECT_EQ(normal(R"({"type": "NFC"})", "ﬁ"), "ﬁ");
  EXPECT_EQ(normal(R"({"type": "NFKC"})", "ﬁ Å"), "fi Å");
  EXPECT_EQ(normal(R"({"type": "NFKD"})", "ﬁé"), "fie\xCC\x81");
  EXPECT_EQ(normal(R"({"type": "Lowercase"})", "AÉΣİ"), "aéσi\xCC\x87");
  EXPECT_EQ(normal(R"({"type": "Prepend", "prepend": "_"})", "a"), "_a");
  EXPECT_EQ(normal(R"({"type": "Prepend", "prepend": "_"})", ""), "");
  EXPECT_EQ(normal(R"({"type": "Replace", "pattern": {"Regex": " +"}, "content": "_"})", "a   b "), "a_b_");
  EXPECT_EQ(normal(R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": " "},
                       {"type": "Replace", "pattern": {"String": " "}, "content": "__"}]})",
                   "a b"),
            "__a__b");
}

TEST(Tokenizer, MergesByRankAndThenFromTheLeft) {
  const Texts words = {"a", "b", "c", "ab", "bc", "aa", "abc"};
  EXPECT_EQ(Tokenizer(tokenizer_json(words, R"([["b", "c"], ["a", "b"]])")).encode("abc"), (Ids{0, 4}));
  EXPECT_EQ(Tokenizer(tokenizer_json(words, R"(["#version: 0.2", "a b", "ab c"])")).encode("abcab"), (Ids{6, 3}));
  EXPECT_EQ(Tokenizer(tokenizer_json(words, R"([["a", "a"]])")).encode("aaaaa"), (Ids{5, 5, 0}));
  const std::string whole = tokenizer_json(words, "[]", R"(, "ignore_merges": true)");
  EXPECT_EQ(Tokenizer(whole).encode("abc"), (Ids{6}));
  EXPECT_EQ(Tokenizer(whole).encode("abca"), (Ids{0, 1, 2, 0}));
}

TEST(Tokenizer, TakesBytesOrTheUnknownTokenForOtherCharacters) {
  const Texts words = {"a", "?", "<0xC3>", "<0xA9>"};
  const auto encode = [&](const std::string& options, const std::string& text) {
    return Tokenizer(tokenizer_json(words, "[]", options)).encode(text);
  };
  EXPECT_EQ(encode("", "aéxa"), (Ids{0, 0}));
  EXPECT_EQ(encode(R"(, "byte_fallback": true)", "aéa"), (Ids{0, 2, 3, 0}));
  EXPECT_EQ(encode(R"(, "unk_token": "?")", "axya"), (Ids{0, 1, 1, 0}));
  EXPECT_EQ(encode(R"(, "unk_token": "?", "fuse_unk": true)", "axya"), (Ids{0, 1, 0}));
  EXPECT_EQ(encode(R"(, "unk_token": "?", "byte_fallback": true)", "xéa"), (Ids{2, 3, 1, 0}));  // as the library does
  expect_error(ErrorCode::kBadInput, {"tokenizer.json", "\"unk_token\" \"!\""},
               [&] { static_cast<void>(encode(R"(, "unk_token": "!")", "x")); });
}

TEST(Tokenizer, FindsAddedTokensBeforeAllElse) {
  const auto encode = [](const std::string& added, const std::string& text) {
    const std::string more = fmt::format(
        R"(, "added_tokens": [{}], "normalizer": {{"type": "Replace", "pattern": {{"String": " "}}, "content": "_"}})",
        added);
    return Tokenizer(tokenizer_json({"a", "b", "_", "<", ">", "<b>"}, "[]", "", more)).encode(text);
  };
  const auto token = [](const std::string& text, const std::string& flags = R"("normalized": false)") {
    return fmt::format(R"({{"id": 9, "content": "{}", "special": true, {}}})", text, flags);
  };
  EXPECT_EQ(encode(token("<b>"), "a<b>b"), (Ids{0, 5, 1}));  // the number that the model has for it
  EXPECT_EQ(encode(token("<a>"), "a<a>b"), (Ids{0, 6, 1}));  // the next free one, not 9
  EXPECT_EQ(encode(token("<"), "<a>"), (Ids{3, 0, 4}));
  EXPECT_EQ(encode(token("ab") + "," + token("aba"), "abab"), (Ids{7, 1}));  // the longest
  EXPECT_EQ(encode(token("<a>", R"("normalized": false, "lstrip": true)"), "b  <a> b"), (Ids{1, 6, 2, 1}));
  EXPECT_EQ(encode(token("<a>", R"("normalized": false, "rstrip": true)"), "b <a>  b"), (Ids{1, 2, 6, 1}));
  EXPECT_EQ(encode(token("a b", R"("normalized": true)"), "a b_a_b"), (Ids{6, 2, 6}));
  EXPECT_EQ(encode(token("a b"), "a b_a_b"), (Ids{6, 2, 0, 2, 1}));
  EXPECT_EQ(encode("", ""), Ids{});
}

TEST(Tokenizer, KnowsWhatItPutsBeforeAText) {
  const auto start = [](const std::string& processor) {
    return Tokenizer(tokenizer_json({"a", "<s>"}, "[]", "", R"(, "post_processor": )" + processor)).start();
  };
  const std::string with_template =
      R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
      {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 0}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}})";
  EXPECT_THAT(start("null"), IsEmpty());
  EXPECT_THAT(start(R"({"type": "ByteLevel"})"), IsEmpty());
  EXPECT_THAT(start(with_template), ElementsAre(1));
  EXPECT_THAT(start(R"({"type": "Sequence", "processors": [{"type": "ByteLevel"}, )" + with_template + "]}"),
              ElementsAre(1));
}

TEST(Tokenizer, GivesTheIdsOfTheTokenizersLibrary) {
  const json::value golden = json::parse(test::get_file(kGolden / "ids.json"));
  const json::array& texts = golden.at("texts").as_array();
  ASSERT_EQ(golden.at("ids").as_object().size(), 13U);
  for (const auto& [name, lists] : golden.at("ids").as_object()) {
    SCOPED_TRACE(std::string(name));
    const Tokenizer tokenizer(test::get_file(kGolden / (std::string(name) + ".json")));
    for (std::size_t i = 0; i < texts.size(); ++i) {
      SCOPED_TRACE(std::string(texts[i].as_string()));
      Ids wanted;
      for (const json::value& id : lists.at(i).as_array()) wanted.push_back(id.as_int64());
      EXPECT_EQ(tokenizer.encode(std::string(texts[i].as_string())), wanted);
    }
  }
}

TEST(Tokenizer, RefusesByNameWhatItDoesNotKnow) {
  const auto refuse = [](std::initializer_list<std::string_view> parts, const std::string& text) {
    SCOPED_TRACE(text);
    expect_error(ErrorCode::kBadInput, parts, [&] { static_cast<void>(Tokenizer(text)); });
  };
  const auto with = [](const std::string& more) { return tokenizer_json({"a", "b"}, "[]", "", more); };
  refuse({"\"Unigram\"", "--tokens-file"}, R"({"model": {"type": "Unigram", "vocab": []}})");
  refuse({"normalizer \"Precompiled\"", "--tokens-file"}, with(R"(, "normalizer": {"type": "Precompiled"})"));
  refuse({"pre-tokenizer \"Whitespace\"", "--tokens-file"}, with(R"(, "pre_tokenizer": {"type": "Whitespace"})"));
  refuse({"post-processor \"BertProcessing\"", "--tokens-file"},
         with(R"(, "post_processor": {"type": "BertProcessing"})"));
  refuse({"\"single_word\"", "--tokens-file"},
         with(R"(, "added_tokens": [{"id": 0, "content": "x", "single_word": true}])"));
  refuse({"behavior \"Other\"", "--tokens-file"},
         with(R"(, "pre_tokenizer": {"type": "Split", "pattern": {"String": "a"}, "behavior": "Other"})"));
  refuse({"regular expression \"(\"", "cannot be read"},
         with(R"(, "normalizer": {"type": "Replace", "pattern": {"Regex": "("}, "content": ""})"));
  refuse({"empty text"}, with(R"(, "normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": ""})"));
  refuse({"\"dropout\"", "--tokens-file"}, tokenizer_json({"a"}, "[]", R"(, "dropout": 0.1)"));
  refuse({"\"end_of_word_suffix\"", "--tokens-file"}, tokenizer_json({"a"}, "[]", R"(, "end_of_word_suffix": "</w>")"));
  refuse({"no token \"ab\""}, tokenizer_json({"a", "b"}, R"([["a", "b"]])"));
  refuse({"\"a b c\" that is no pair"}, tokenizer_json({"a", "b"}, R"(["a b c"])"));
  refuse({"no list of merges"}, R"({"model": {"type": "BPE", "vocab": {}}})");
  refuse({"no object \"model\""}, "{}");
  refuse({"is not a JSON object"}, "[]");
  refuse({"\"x\" twice"}, with(R"(, "normalizer": {"type": "Lowercase"}, "added_tokens": [
      {"id": 2, "content": "x", "normalized": true}, {"id": 3, "content": "X", "normalized": true}])"));
}

TEST(Unicode, FindsWhereATextStopsBeingUtf8) {
  EXPECT_EQ(valid_utf8_bytes("aé"), 3U);
  EXPECT_EQ(valid_utf8_bytes("a\xC3"), 1U);
  EXPECT_EQ(valid_utf8_bytes("\xED\xA0\x80"), 0U);  // half of a surrogate pair
  EXPECT_EQ(valid_utf8_bytes("ab\xC0\x80"), 2U);
  EXPECT_EQ(valid_utf8_bytes(std::string_view("\0", 1)), 1U);
}

TEST(Tokenizer, LeavesRegularExpressionsOfTheCLibraryAlone) {
  for (const char* name : {"regcomp", "regexec", "regerror", "regfree"}) {
    void* const found = dlsym(RTLD_DEFAULT, name);
    Dl_info info{};
    ASSERT_NE(dladdr(found, &info), 0) << name;
    EXPECT_THAT(info.dli_fname, testing::Not(testing::HasSubstr("onig"))) << name;
  }
}

}  // namespace
}  // namespace halfquad
