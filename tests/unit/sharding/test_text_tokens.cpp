// The tokens of a text file: sequences, start tokens, how much is read, what is refused.
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/posix_file_system.h"
#include "sharding/forward/text_tokens.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

using test::expect_error;
using ::testing::ElementsAre;

/// Letters and the space are tokens 1 to 5, of which "ab" makes one; 0 is the start token.
constexpr char kTokenizer[] = R"({"model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3, " ": 4, "é": 5},
    "merges": [["a", "b"]]}, "post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}], "special_tokens": {"<s>": {"ids": [0]}}}})";

class TextTokensTest : public ::testing::Test {
 protected:
  TokenBatch tokens(const std::string& text, std::int64_t count, std::int64_t length, std::int64_t vocabulary = 6) {
    test::put_file(path_, text);
    return text_tokens(*files_, {.file = path_, .tokens = count, .length = length}, tokenizer_, vocabulary);
  }

  test::TempDir directory_;
  std::filesystem::path path_ = directory_.path() / "text.txt";
  std::unique_ptr<FileSystem> files_ = make_posix_file_system();
  Tokenizer tokenizer_{kTokenizer};
};

TEST_F(TextTokensTest, EachSequenceBeginsWithTheStartToken) {
  const TokenBatch batch = tokens("aba bé a", 10, 4);
  EXPECT_THAT(batch.ids, ElementsAre(0, 3, 1, 4, 0, 2, 5, 4, 0, 1));
  EXPECT_THAT(batch.begins, ElementsAre(0, 4, 8, 10));
}

TEST_F(TextTokensTest, TakesTheFirstTokensAndAllOfAShortText) {
  EXPECT_THAT(tokens("aaaaaaaa", 6, 4).ids, ElementsAre(0, 1, 1, 1, 0, 1));
  EXPECT_THAT(tokens("aaaaaaaa", 5, 4).begins, ElementsAre(0, 4));  // no sequence of a start token alone
  EXPECT_EQ(tokens("aaaa", 100, 4).tokens(), 6);
  EXPECT_EQ(tokens("aaa", 100, 4).tokens(), 4);
  EXPECT_EQ(tokens("aa", 3, 4).tokens(), 3);
}

TEST_F(TextTokensTest, ReadsNoMoreThanTheTokensTake) {
  std::string text;
  while (text.size() < (1U << 20U)) text += "abé ";
  const std::vector<std::int64_t> whole = tokens(text, 5000, 5000).ids;
  text.append("\xFF\xFF");
  EXPECT_EQ(tokens(text, 5000, 5000).ids, whole);
  expect_error(ErrorCode::kBadInput, {"not UTF-8", fmt::format("(at byte {})", text.size() - 2)},
               [&] { static_cast<void>(tokens(text, 1 << 20, 512)); });
}

TEST_F(TextTokensTest, ReadsOnWhenTokensAreLong) {
  // 16 bytes for each token: twice what is read at first.
  const Tokenizer tokenizer(R"({"model": {"type": "BPE", "vocab": {"a": 0, "aa": 1, "aaaa": 2, "aaaaaaaa": 3, "b": 4,
      "aaaaaaaaaaaaaaaa": 5}, "merges": ["a a", "aa aa", "aaaa aaaa", "aaaaaaaa aaaaaaaa"]}})");
  test::put_file(path_, std::string(1 << 20, 'a') + "b");
  const TokenBatch batch = text_tokens(*files_, {.file = path_, .tokens = 4096, .length = 512}, tokenizer, 6);
  EXPECT_EQ(batch.ids, std::vector<std::int64_t>(4096, 5));
}

TEST_F(TextTokensTest, TakesNoTokenThatTheEndOfAPieceMayHaveMade) {
  // The 8 bytes for each of the tokens end within the last one, which alone would be four.
  const Tokenizer tokenizer(R"({"model": {"type": "BPE", "vocab": {"a": 0, "aa": 1, "aaaa": 2, "aaaaaaaa": 3, "b": 4,
      "aaaaaaaaaaaaaaaa": 5, "c": 6, "cc": 7, "cccc": 8, "cccccccc": 9},
      "merges": ["a a", "aa aa", "aaaa aaaa", "aaaaaaaa aaaaaaaa", "c c", "cc cc", "cccc cccc"]}})");
  test::put_file(path_, std::string(998 * 8, 'c') + "b" + std::string(1 << 16, 'a'));
  const TokenBatch batch = text_tokens(*files_, {.file = path_, .tokens = 1000, .length = 500}, tokenizer, 10);
  EXPECT_EQ(batch.ids.at(997), 9);
  EXPECT_EQ(batch.ids.at(998), 4);
  EXPECT_EQ(batch.ids.at(999), 5);
}

TEST_F(TextTokensTest, WherePiecesEndNoCharacterIsBroken) {
  // The first piece, 8 bytes a token, ends inside of a character of two bytes, whichever of both it begins with.
  for (const std::string front : {"", "a"}) {
    std::string text = front;
    for (int i = 0; i < 20000; ++i) text += "é";
    EXPECT_EQ(tokens(text, 100, 10).tokens(), 100);
  }
}

TEST_F(TextTokensTest, SaysWhatIsWrongWithTheText) {
  const auto refuse = [&](std::initializer_list<std::string_view> parts, const std::string& text, std::int64_t length,
                          std::int64_t vocabulary = 6) {
    expect_error(ErrorCode::kBadInput, parts, [&] { static_cast<void>(tokens(text, 100, length, vocabulary)); });
  };
  refuse({"text.txt", "not UTF-8", "at byte 2", "iconv"}, "ab\xE9", 4);
  refuse({"text.txt", "too short", "gives 2 tokens", "takes 3"}, "ab ", 4);
  refuse({"text.txt", "too short", "gives 0 tokens"}, "", 4);
  refuse({"token 5", "text.txt", "5 rows"}, "aaé", 4, 5);
  expect_error(ErrorCode::kUsage, {"--length"}, [&] { static_cast<void>(tokens("aaa", 10, 1)); });
}

TEST_F(TextTokensTest, SaysThatTheTokenizerIsMissing) {
  test::put_file(directory_.path() / "config.json", "{}");
  test::put_file(directory_.path() / "model.safetensors", std::string("\x02\0\0\0\0\0\0\0{}", 10));
  const Checkpoint checkpoint(*files_, directory_.path());
  expect_error(ErrorCode::kBadInput, {"tokenizer.json", "is missing", "--tokens-file"},
               [&] { static_cast<void>(read_tokenizer_json(*files_, checkpoint)); });
  test::put_file(directory_.path() / "tokenizer.json", "{}");
  EXPECT_EQ(read_tokenizer_json(*files_, checkpoint), "{}");
}

}  // namespace
}  // namespace halfquad
